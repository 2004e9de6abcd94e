#!/bin/sh
# @NAME@: one JSON message per line on stdin and stdout, until stdin ends. At every heartbeat it looks whether a file is there.
#
# It has no query socket. Its alerts carry no id: the agent records each one when it comes, but one that is on its way when
# the agent dies is lost. A module in another language does better with little: vigie module new python.

wanted=${WANTED_FILE:-/etc/hostname}
missing=false

# The texts are ours and need no escaping. Never put text from elsewhere into JSON like this.
log() { printf '{"class":"log","parameters":{"message":"%s"}}\n' "$1"; }
alert() { printf '{"class":"alert","parameters":{"message":"{\\"severity\\":\\"medium\\",\\"alert\\":\\"%s\\"}"}}\n' "$1"; }

look() {
    if [ -e "$wanted" ]; then
        missing=false
    elif [ "$missing" = false ]; then
        missing=true
        alert 'the wanted file is missing'
    fi
}

printf '{"class":"register","parameters":{"sockpath":"","protocol":1,"capabilities":["stop"]}}\n'
# A shell cannot read JSON, but the agent writes the class first and without spaces.
while read -r line; do
    case $line in
    '{"class":"ping"'*)
        # The heartbeat: echo the line as it is, at once. A module that does not is killed.
        printf '%s\n' "$line"
        look
        ;;
    '{"class":"config"'*) log '@NAME@ has its configuration' ;;
    '{"class":"stop"'*) exit 0 ;;
    esac # whatever else comes is for others: ignore it
done
