#!/bin/sh
# Back up the stack that `make stack` runs: its databases, its bucket and its keys. Nothing needs to be stopped, but what a
# run writes meanwhile may be missing.
#   sh deploy/backup.sh BACKUP [STACK]
set -eu
umask 077
backup=$1 stack=${2:-stack}
. "$stack/environment"
export PGPASSFILE="$stack/secrets/pgpass"
IFS=: read -r host port _ user _ <"$PGPASSFILE"
mkdir "$backup" "$backup/bucket"
for name in prefect mlflow mlflow_accounts; do
  pg_dump --host "$host" --port "$port" --username "$user" --format custom --file "$backup/$name.dump" "$name"
done
python -c 'import sys, s3fs; s3fs.S3FileSystem().get("copytrace/", sys.argv[1] + "/", recursive=True)' "$backup/bucket"
cp -R "$stack/secrets" "$backup/secrets"
echo "$backup has three databases, $(find "$backup/bucket" -type f | wc -l) objects and the keys"
