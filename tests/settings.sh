#!/usr/bin/env bash
# Runs continuous integration in settings other than one's own, each in a clean clone of HEAD.
#
#   bash tests/settings.sh                  all six that must pass
#   bash tests/settings.sh user folder      those two
#   bash tests/settings.sh avx2 default     other processors, as far as torch can play them
#
#   core        on one core
#   locale      LANG=C LC_ALL=C
#   background  nohup ... &, with SIGINT and SIGHUP ignored, as a shell starts it
#   user        as an ordinary user: yourself, or SETTINGS_USER where you are root
#   folder      in a clone whose path has a space and letters that are not ASCII
#   busy        beside processes that keep every core busy
#   avx2, default  ATEN_CPU_CAPABILITY
#
# From the environment:
#   VENV, SKIP_INSTALL  SKIP_INSTALL=1 uses the environment VENV for all settings. Otherwise each
#                       clone makes its own, which takes minutes and 1.2 GB, see INSTALL.md
#   PYTEST_ADDOPTS      arguments for pytest, such as "tests/config -x"
#   SETTINGS_DIR        where clones and logs go           (default: a new folder in TMPDIR or /tmp)
#   SETTINGS_USER       who the ordinary user is           (default: nobody)
# The folder "shared" beside this clone is lent to the others. A clone is removed when it passed.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ALL=(core locale background user folder busy)
SETTINGS_USER="${SETTINGS_USER:-nobody}"
rows=()
load=()

fail() {
    echo "settings: $*" >&2
    exit 1
}

# check NAME: everything that a setting needs, before the first of them is run.
check() {
    case "$1" in
    core) command -v taskset >/dev/null || fail "core needs taskset (util-linux)" ;;
    user)
        id "$SETTINGS_USER" >/dev/null || fail "set SETTINGS_USER to the name of a user"
        [ "$(id -u)" != 0 ] || command -v setpriv >/dev/null ||
            fail "user needs setpriv (util-linux), or to be started by an ordinary user"
        if [ "${SKIP_INSTALL:-}" = 1 ]; then
            # By way of bash: it is the program that is started there that has root's rights no more.
            as_user bash -c '"$VENV/bin/python" -c ""' ||
                fail "$SETTINGS_USER cannot run $VENV/bin/python; give a VENV of a python that all \
may run, or leave VENV and SKIP_INSTALL out"
        fi
        ;;
    locale | background | folder | busy | avx2 | default) ;;
    *) fail "there is no setting $1; give some of ${ALL[*]} avx2 default" ;;
    esac
}

# as_user COMMAND ...: run it as the ordinary user, without root's groups and rights.
as_user() {
    if [ "$(id -u)" != 0 ]; then
        "$@"
    else
        setpriv --reuid "$SETTINGS_USER" --regid "$(id -g "$SETTINGS_USER")" --clear-groups \
            --inh-caps=-all --no-new-privs "$@"
    fi
}

# make_clone FOLDER: a clean clone of HEAD in FOLDER/openvclip, with a home.
make_clone() {
    mkdir -p "$1/home"
    git clone --quiet --no-local "$ROOT" "$1/openvclip"
    [ ! -d "$ROOT/../shared" ] || ln -s "$(realpath "$ROOT/../shared")" "$1/shared"
}

# run_ci NAME FOLDER: run it in the setting; the exit code is that of .ci/run.
run_ci() {
    local name="$1" folder="$2" ci=(bash "$2/openvclip/.ci/run")
    export TMPDIR="$BASE/$name.tmp"
    mkdir "$TMPDIR"
    case "$name" in
    core) taskset -c "$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')" "${ci[@]}" ;;
    locale) LANG=C LC_ALL=C "${ci[@]}" ;;
    background)
        nohup "${ci[@]}" </dev/null &  # a shell without job control ignores SIGINT for it
        wait $!
        ;;
    user)
        [ "$(id -u)" != 0 ] || chown -R "$SETTINGS_USER": "$folder" "$TMPDIR"
        HOME="$folder/home" USER="$SETTINGS_USER" LOGNAME="$SETTINGS_USER" as_user "${ci[@]}"
        ;;
    folder) "${ci[@]}" ;;
    busy)
        for _ in $(seq "$(nproc)"); do
            (while :; do :; done) &
            load+=($!)
        done
        "${ci[@]}"
        ;;
    avx2 | default) ATEN_CPU_CAPABILITY="$name" "${ci[@]}" ;;
    esac
}

end_load() {
    [ ${#load[@]} = 0 ] || kill "${load[@]}" 2>/dev/null || true
    load=()
}

# try NAME: run a setting and note a row of the table.
try() {
    local name="$1" folder="$BASE/$1" log="$BASE/$1.log" started=$SECONDS code=0 said
    [ "$name" != folder ] || folder="$BASE/ein Ordner mit Größe 日本"
    rm -rf "$folder" "$BASE/$name.tmp"
    make_clone "$folder"
    echo "settings: $name, log in $log"
    (trap end_load EXIT; run_ci "$name" "$folder") >"$log" 2>&1 </dev/null || code=$?
    said="$(grep -aE '(passed|failed|errors?|skipped|deselected|warnings?) in [0-9.]+s' "$log" |
        tail -n 1 | tr -d = || true)"
    [ "$code" = 0 ] && rm -rf "$folder" "$BASE/$name.tmp" || said="exit $code; $said"
    rows+=("$(printf '%-10s  %-4s  %5d s  %s' "$name" "$([ "$code" = 0 ] && echo pass ||
        echo FAIL)" $((SECONDS - started)) "${said:-see $log}")")
    [ "$code" = 0 ] || FAILED=1
}

[ $# -gt 0 ] || set -- "${ALL[@]}"
[ "${SKIP_INSTALL:-}" != 1 ] || [ -n "${VENV:-}" ] || fail "SKIP_INSTALL=1 needs VENV"
if [ "${SKIP_INSTALL:-}" = 1 ]; then
    [ -d "$VENV" ] || fail "VENV is $VENV, which is not a folder"
    VENV="$(cd "$VENV" && pwd)"
    export VENV SKIP_INSTALL
else
    unset VENV
fi
for name in "$@"; do check "$name"; done
BASE="${SETTINGS_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/settings.XXXXXX")}"
mkdir -p "$BASE"
BASE="$(cd "$BASE" && pwd)"
chmod 755 "$BASE"
[ -z "$(git -C "$ROOT" status --porcelain)" ] ||
    echo "settings: what is not committed is not tested" >&2

FAILED=0
for name in "$@"; do try "$name"; done
echo
printf '%s\n' "${rows[@]}"
exit "$FAILED"
