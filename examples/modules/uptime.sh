#!/bin/sh
# A standard module: reads one query from stdin, prints one result, and ends.
#
# Answers how long the host has been up. It takes no parameters, so it need not understand the query: that it
# is one is enough. Errors go into the result; what is written to stderr is only for the agent's log.

read -r request || [ -n "$request" ]   # the last line may lack its line feed

case $request in
*'"class"'*'"parameters"'*) ;;
*)
    printf '%s\n' '{"foundanything":false,"success":false,"elements":null,"statistics":null,"errors":["expected one parameters message on stdin"]}'
    exit 0
    ;;
esac

if read -r uptime _ </proc/uptime; then
    printf '{"foundanything":true,"success":true,"elements":{"uptime_secs":%s},"statistics":null,"errors":null}\n' "$uptime"
else
    printf '%s\n' '{"foundanything":false,"success":false,"elements":null,"statistics":null,"errors":["cannot read /proc/uptime"]}'
fi
