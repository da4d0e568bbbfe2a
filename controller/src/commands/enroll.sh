#!/bin/sh
# Makes this machine the host @HOST@ of a fleet. Run it here as root. Written by `ctl host enroll @HOST@`.
#
# Keep it to yourself, and remove it afterwards: it holds the password of the host's Redis user.
# It downloads nothing. It may be run again: what somebody may have changed since (the settings, whom this host
# trusts) is left as it is; password and unit are written anew.
# With DESTDIR=DIR all files are put below DIR, and systemd is left alone.
set -eu
umask 077

here=$(dirname "$0")
program=${DESTDIR:-}/usr/local/bin/worker
settings=${DESTDIR:-}/etc/redfleet
units=${DESTDIR:-}/etc/systemd/system

# write FILE MODE: the file's content is standard input
write() {
    cat >"$1.new"
    chmod "$2" "$1.new"
    mv -f "$1.new" "$1"
    echo "written: $1"
}

# begin FILE MODE: the same, unless there is such a file
begin() {
    if [ -e "$1" ]; then
        cat >/dev/null
        echo "left as it is: $1"
    else
        write "$1" "$2"
    fi
}

if [ -f "$here/worker" ] && ! cmp -s "$here/worker" "$program"; then
    mkdir -p "$(dirname "$program")"
    write "$program" 755 <"$here/worker"
fi

mkdir -p "$settings" "$units"
chmod 755 "$settings"

write "$settings/redis-password" 600 <<'END_OF_FILE'
@PASSWORD@
END_OF_FILE
@CA@
# Whom this host obeys: OpenSSH's allowed_signers. `ctl key trust` and `ctl key revoke` send newer versions.
begin "$settings/allowed_signers" 644 <<'END_OF_FILE'
@SIGNERS@
END_OF_FILE
@REVOKED@
begin "$settings/worker.toml" 644 <<'END_OF_FILE'
@SETTINGS@
END_OF_FILE

write "$units/redfleet-worker.service" 644 <<'END_OF_FILE'
@UNIT@
END_OF_FILE

if [ -n "${DESTDIR:-}" ]; then
    exit 0
fi
if ! [ -x "$program" ]; then
    echo "The program $program is missing: put it there, and run this script again." >&2
    exit 1
fi
"$program" --config "$settings/worker.toml" --check-config >/dev/null
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --quiet redfleet-worker
    systemctl restart redfleet-worker
    echo "started; its log: journalctl -u redfleet-worker"
else
    echo "without systemd, start it yourself: $program --config $settings/worker.toml"
fi
