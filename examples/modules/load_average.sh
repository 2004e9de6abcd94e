#!/bin/sh
# A persistent module: one JSON message per line on stdin and stdout, until stdin ends.
#
# At every heartbeat it looks at the load average and sends an alert when it has risen above a limit:
#
#     LOAD_LIMIT=8 load_average.sh
#
# It has no query socket, so it registers none. Its alerts carry no id: the agent records each one when it
# comes, but one that is on its way when the agent dies is lost. disk_usage.py shows how to do better.

limit=${LOAD_LIMIT:-8}
above=false

# Both texts here are ours and need no escaping. Never put text from elsewhere into JSON like this.
log() { printf '{"class":"log","parameters":{"message":"%s"}}\n' "$1"; }
alert() { printf '{"class":"alert","parameters":{"message":"{\\"severity\\":\\"medium\\",\\"alert\\":\\"%s\\"}"}}\n' "$1"; }

look() {
    read -r load _ </proc/loadavg || return
    # The whole part is enough, and shells count in whole numbers only.
    if [ "${load%%.*}" -ge "$limit" ]; then
        [ "$above" = true ] || alert "load average is $load, the limit is $limit"
        above=true
    else
        above=false
    fi
}

# A shell cannot read JSON, but the agent writes the class first and without spaces.
while read -r line; do
    case $line in
    '{"class":"ping"'*)
        # The heartbeat: echo the line as it is, at once. A module that does not is killed.
        printf '%s\n' "$line"
        look
        ;;
    '{"class":"config"'*) log "watching the load average, limit $limit" ;;
    '{"class":"stop"'*) break ;;
    esac # whatever else comes is for others: ignore it
done
# stdin has ended: the agent is gone, and so must we be.
