#!/usr/bin/env bash
# Packs this machine's static busybox (Debian: busybox-static) into an image archive, for machines that reach no registry:
#   examples/busybox-image.sh busybox.tar docker.io/library/busybox:1.36 [more references]
#   coracle image import busybox.tar
set -euo pipefail
archive=$(realpath -m "$1"); shift
busybox=${BUSYBOX:-$(command -v busybox)}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root/bin" "$work/root/etc" "$work/root/tmp" "$work/root/usr/bin" "$work/image"
cp "$busybox" "$work/root/bin/busybox"
for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$work/root/bin/$applet"; done
ln -s ../../bin/env "$work/root/usr/bin/env"
echo 'root:x:0:0:root:/:/bin/sh' > "$work/root/etc/passwd"
echo 'root:x:0:' > "$work/root/etc/group"
chmod 1777 "$work/root/tmp"
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$work/root" -cf "$work/image/layer.tar" .
layer=$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)
printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin:/usr/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" > "$work/image/config.json"
tags=$(printf '"%s",' "${@:-docker.io/library/busybox:1.36}"); tags=${tags%,}
printf '[{"Config":"config.json","RepoTags":[%s],"Layers":["layer.tar"]}]' "$tags" > "$work/image/manifest.json"
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$work/image" -cf "$archive" manifest.json config.json layer.tar
