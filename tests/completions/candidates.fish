#!/usr/bin/env fish
# What fish offers at the end of each LINE: one candidate a line, without its description, then an empty line.
#
#   fish --no-config candidates.fish SCRIPT LINE…
source $argv[1]; or exit 1
for line in $argv[2..-1]
    complete --do-complete "$line" | string replace --regex '\t.*' ''
    echo
end
