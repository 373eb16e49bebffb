#!/usr/bin/env bash
# Whether the pair knows every flag that upstream's pair knows: `flags.sh OURS UPSTREAMS`, both folders with kube-apiserver and etcd.
set -euo pipefail
names() { "$1" --help 2>&1 | sed -nE 's/^ +(-[a-z], )?--([a-z0-9-]+).*/\2/p' | sort -u; }
missing=0
for program in kube-apiserver etcd; do
  count=$(names "$2/$program" | wc -l)
  unknown=$(comm -13 <(names "$1/$program") <(names "$2/$program"))
  echo "$program: $count flags of upstream, unknown here: ${unknown:-none}"
  [ -z "$unknown" ] && [ "$count" -gt 50 ] || missing=1
done
exit $missing
