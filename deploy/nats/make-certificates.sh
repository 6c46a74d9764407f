#!/bin/sh
# Certificates for trying TLS: an authority, one server and one client, good for a year. Not for production.
#
#   deploy/nats/make-certificates.sh FOLDER [NAME…]
#
# NAME: host names and addresses of the server besides localhost and 127.0.0.1. Makes ca.pem, server.pem,
# server-key.pem, client.pem and client-key.pem in FOLDER.
set -eu
folder=${1:?usage: make-certificates.sh FOLDER [NAME…]}
shift
mkdir -p "$folder"
cd "$folder"
umask 077

names=DNS:localhost,IP:127.0.0.1
for name in "$@"; do
  case $name in
    *[!0-9.]*) names=$names,DNS:$name ;;
    *) names=$names,IP:$name ;;
  esac
done

openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj "/CN=Stoker development authority" \
  -addext keyUsage=critical,keyCertSign -keyout ca-key.pem -out ca.pem 2>/dev/null

issue() { # issue FILE NAME EXTENSIONS
  openssl req -newkey rsa:2048 -nodes -subj "/CN=$2" -keyout "$1-key.pem" -out "$1.csr" 2>/dev/null
  printf '%s\n' "$3" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 365 -extfile "$1.ext" \
    -out "$1.pem" 2>/dev/null
  rm "$1.csr" "$1.ext"
}
issue server localhost "subjectAltName=$names"
issue client stoker "extendedKeyUsage=clientAuth"
rm -f ca.srl
chmod 644 ca.pem server.pem client.pem
