#!/bin/zsh
# What zsh offers at the end of each LINE: one candidate a line, then an empty line. zsh completes only for someone who
# types, so another zsh is typed to on a pseudo-terminal; whatever else it writes there goes to the standard error.
#
#   zsh -f candidates.zsh SCRIPT LINE…
zmodload zsh/zpty
work=$(mktemp -d) || exit 1
trap 'rm -rf $work' EXIT
cp $1 $work/_hypernova || exit 1
shift
print -r -- '
PS1= fpath=('$work' $fpath)
autoload -U compinit
compinit -u -d '$work'/dump
zstyle ":completion:*" insert-tab false
LISTMAX=100000
compadd() {
  local -a found
  # With these it fills an array for its caller, and offers nothing.
  if (( ! $argv[(I)-[OAD]] )); then
    builtin compadd -A found "$@"
    print -rl -- $found >>'$work'/candidates
  fi
  builtin compadd "$@"
}
candidates() {
  zle complete-word
  BUFFER=
  print >'$work'/done
}
zle -N candidates
bindkey "^I" candidates
print >'$work'/done' >$work/rc

# FILE SECONDS: until it is there; what the terminal shows meanwhile must be read, or its writer stops.
await() {
  local chunk
  integer i
  for ((i = 0; i < $2 * 50; i++)); do
    while zpty -r -t z chunk; do print -rn -u2 -- $chunk; done
    if [[ -e $1 ]]; then rm -f $1; return 0; fi
    sleep 0.02
  done
  print -u2 "zsh gave no sign in $2 s"
  exit 1
}

TERM=dumb zpty z zsh -f -i
zpty -w z "unsetopt zle_bracketed_paste 2>/dev/null; . $work/rc"
await $work/done 20
for line in "$@"; do
  : >$work/candidates
  zpty -w -n z "$line"$'\t'
  await $work/done 20
  sort -u $work/candidates | sed '/^$/d'
  print
done
zpty -d z
