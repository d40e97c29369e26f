#!/bin/bash
# What bash offers at the end of each LINE: one candidate a line, then an empty line.
#
#   bash candidates.bash SCRIPT LINE…
. "$1" || exit 1
shift
# It works only while bash completes by itself; it changes how candidates are shown.
compopt() { :; }
for line in "$@"; do
  COMPREPLY=()
  COMP_WORDS=($line)
  [[ $line != *" " ]] || COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line}
  # As bash calls it: the command, the word at the cursor, the word before that.
  _hypernova hypernova "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
  printf '%s\n' "${COMPREPLY[@]}" ""
done
