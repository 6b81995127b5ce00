# Passwords for compose.yaml, made once and kept in the volume `secrets`. Each file can be read by the
# user that needs it and by nobody else.
set -eu
umask 077

password() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

cd "${1:-/secrets}"
[ -s postgres ] || password > postgres
[ -s grafana ] || password > grafana
# libpq's password file: it is refused if others can read it.
printf 'postgres:5432:softprompt:softprompt:%s\n' "$(cat postgres)" > pgpass
chown 10001:10001 pgpass # the server
chown 472:0 grafana
