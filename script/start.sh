# Sourced by the other scripts: how they start a program.

# show COMMAND ...: print the command, quoted so that it can be copied into a shell.
show() {
    local command
    printf -v command ' %q' "$@"
    echo "+$command" >&2
}

# start COMMAND ...: print the command and run it.
start() {
    show "$@"
    "$@"
}
