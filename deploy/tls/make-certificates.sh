#!/bin/sh
# A certificate authority of your own, and one certificate that Redis and Postgres share:
#
#     sh deploy/tls/make-certificates.sh FOLDER NAME...
#
# NAME is what clients write in their URLs, a host name or an IP address; localhost is always among them. Run again, it
# keeps the authority, so that clients go on trusting, and renews the server's certificate.
set -eu
umask 077

[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1
shift
mkdir -p "$folder"
cd "$folder"

names="DNS:localhost,IP:127.0.0.1"
for name in "$@"; do
    case $name in
        localhost | 127.0.0.1) ;;
        *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) names="$names,IP:$name" ;;
        *) names="$names,DNS:$name" ;;
    esac
done

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

if [ ! -f ca.key ]; then
    key ca.key
    openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=dljobs authority" -out ca.pem \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign"
fi
key server.key
openssl req -new -key server.key -subj "/CN=dljobs server" -out server.csr
printf '%s\n' "subjectAltName=$names" "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
    "extendedKeyUsage=serverAuth" "authorityKeyIdentifier=keyid" >server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -sha256 -days 825 -extfile server.ext -out server.pem \
    -CAcreateserial 2>/dev/null
rm -f server.csr server.ext ca.srl
chmod 644 ca.pem server.pem
echo "$folder: ca.pem is for clients, server.pem and server.key for the servers; keep ca.key away from all of them"
