#!/usr/bin/env bash
# Packs this machine's static busybox (Debian: busybox-static) into an image archive, for machines that reach no registry:
#   examples/busybox-image.sh busybox.tar docker.io/library/busybox:1.36 [more references]
#   coracle image import busybox.tar
set -euo pipefail
archive=$(realpath -m "$1"); shift
busybox=${BUSYBOX:-$(command -v busybox)}
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/tree/bin" "$folder/tree/etc" "$folder/tree/tmp" "$folder/tree/usr/bin" "$folder/image"
cp "$busybox" "$folder/tree/bin/busybox"
for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$folder/tree/bin/$applet"; done
ln -s ../../bin/env "$folder/tree/usr/bin/env"
echo 'root:x:0:0:root:/:/bin/sh' > "$folder/tree/etc/passwd"
echo 'root:x:0:' > "$folder/tree/etc/group"
chmod 1777 "$folder/tree/tmp"
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$folder/tree" -cf "$folder/image/layer.tar" .
layer=$(sha256sum "$folder/image/layer.tar" | cut -d' ' -f1)
printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin:/usr/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" > "$folder/image/config.json"
tags=$(printf '"%s",' "${@:-docker.io/library/busybox:1.36}"); tags=${tags%,}
printf '[{"Config":"config.json","RepoTags":[%s],"Layers":["layer.tar"]}]' "$tags" > "$folder/image/manifest.json"
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$folder/image" -cf "$archive" manifest.json config.json layer.tar
