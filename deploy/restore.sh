#!/bin/sh
# Restore a backup into a new stack that runs with the keys of the backup. Start the stack again afterwards.
#   sh deploy/restore.sh BACKUP [STACK]
set -eu
backup=$1 stack=${2:-stack}
. "$stack/environment"
export PGPASSFILE="$stack/secrets/pgpass"
IFS=: read -r host port _ user _ <"$PGPASSFILE"
for name in prefect mlflow mlflow_accounts; do
  # The servers are connected: one transaction, so that they see all of it or nothing.
  pg_restore --host "$host" --port "$port" --username "$user" --dbname "$name" \
    --clean --if-exists --no-owner --single-transaction --exit-on-error "$backup/$name.dump"
done
python -c 'import sys, s3fs; s3fs.S3FileSystem().put(sys.argv[1] + "/", "copytrace/", recursive=True)' "$backup/bucket"
echo "restored from $backup; now stop the stack, and start it again"
