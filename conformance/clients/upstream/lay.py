#!/usr/bin/env python3
"""Lays the starting of a server in a process of its own into copies of two of upstream's modules: `lay.py KUBERNETES APIEXTENSIONS`."""
import pathlib
import shutil
import sys

here = pathlib.Path(__file__).parent
kubernetes, extensions = (pathlib.Path(folder) for folder in sys.argv[1:])

START = """	spawned, err := {call}
	if err != nil {{
		{fail}
	}}
	errCh = spawned.Ended
	go func() {{ <-{ctx}.Done(); spawned.Stop() }}()
"""


def edit(path, *changes):
    """Replaces from one anchor to the next, exclusively, in a file; an empty end is the anchor itself."""
    text = path.read_text()
    for begin, end, new in changes:
        at = text.find(begin)
        to = text.find(end, at + 1) if end else at + len(begin)
        if at < 0 or to < 0:
            sys.exit(f"{path}: no {begin if at < 0 else end!r}: another version of upstream?")
        text = text[:at] + new + text[to:]
    path.write_text(text)


def tail(path, begin):
    text = path.read_text()
    path.write_text(text[: text.index(begin)])


kube = kubernetes / "cmd/kube-apiserver/app/testing"
server = kube / "testserver.go"
call = "Spawn(t.Logf, s, featureGate)"
edit(
    server,
    ("	config, err := app.NewConfig(", "	client, err := kubernetes.NewForConfig(",
     '	if instanceOptions.StorageVersionWrapFunc != nil || instanceOptions.BinaryVersion != "" {\n		t.Skip("looks into the process")\n	}\n'
     + START.format(call=call, fail="return result, err", ctx="tCtx")),
    ("	pkgPath, err := pkgPath(t)", '	s.ServiceClusterIPRanges = "10.0.0.0/16"', ""),
    ('	"k8s.io/kubernetes/cmd/kube-apiserver/app"\n', "", ""),
    ('	"runtime"\n', "", ""),
    ("	defer os.RemoveAll(saSigningKeyFile.Name())\n", "", ""),
)
tail(server, "// pkgPath returns")
server.write_text(server.read_text().replace("server.GenericAPIServer.LoopbackClientConfig", "spawned.Config"))
for name in ["spawn.go", "kube.go"]:
    shutil.copy(here / name, kube / name)

HOOKS = """	generic := kubeAPIServerConfig.ControlPlane.Generic
	bridge := kastesting.NewBridge(generic)
	if setup.ModifyServerConfig != nil {
		plugins, info, documents, audit := generic.AdmissionControl, generic.RequestInfoResolver, generic.OpenAPIConfig, generic.AuditBackend
		served, endpoints := kubeAPIServerConfig.ControlPlane.Extra.APIResourceConfigSource, kubeAPIServerConfig.Extra.EndpointReconcilerType
		setup.ModifyServerConfig(kubeAPIServerConfig)
		if generic.AdmissionControl != plugins || generic.RequestInfoResolver != info || generic.OpenAPIConfig != documents || generic.AuditBackend != audit {
			t.Skip("looks into the process")
		}
		if kubeAPIServerConfig.ControlPlane.Extra.APIResourceConfigSource != served {
			opts.APIEnablement.RuntimeConfig["api/all"] = "true"
		}
		if now := kubeAPIServerConfig.Extra.EndpointReconcilerType; now != endpoints {
			opts.EndpointReconcilerType = string(now)
		}
	}
	if err := bridge.Apply(generic, opts, certDir); err != nil {
		t.Fatal(err)
	}
"""
framework = kubernetes / "test/integration/framework"
edit(
    framework / "test_server.go",
    ("	if setup.ModifyServerConfig != nil {", "	// wait for health\n",
     HOOKS + START.format(call="kastesting.Spawn(t.Logf, opts, featureGate)", fail="t.Fatal(err)", ctx="ctx")
     + "	kubeAPIServerClientConfig := spawned.Config\n\n"),
    ('	genericapiserver "k8s.io/apiserver/pkg/server"\n', "", ""),
    ('	"k8s.io/kubernetes/cmd/kube-apiserver/app"\n', "",
     '	"k8s.io/kubernetes/cmd/kube-apiserver/app"\n	kastesting "k8s.io/kubernetes/cmd/kube-apiserver/app/testing"\n'),
)
# etcd on a port, too: its socket is upstream's alone.
edit(
    framework / "etcd.go",
    ('	customURL := "unix://" + etcdSocketPath\n', "",
     '	customURL := "unix://" + etcdSocketPath\n	free, err := net.Listen("tcp", "127.0.0.1:0")\n	if err != nil {\n		return "", nil, err\n	}\n'
     '	portURL := "http://" + free.Addr().String()\n	_ = free.Close()\n'),
    ("		customURL,\n", "", '		customURL + "," + portURL,\n'),
    ("	return customURL, stop, nil", "", "	return portURL, stop, nil"),
)

crds = extensions / "pkg/cmd/server/testing"
edit(
    crds / "testserver.go",
    ("	server, err := completedConfig.New(", '	t.Logf("Waiting for /healthz to be ok...")',
     START.format(call="Spawn(t.Logf, s, result.TmpDir, featureGate)", fail="return result, err", ctx="ctx") + "\n"),
    ("	pkgPath, err := pkgPath(t)", "	if storageConfig != nil {", ""),
    ('	"runtime"\n', "", ""),
    ('	"path/filepath"\n', "", ""),
)
tail(crds / "testserver.go", "// pkgPath returns")
edited = (crds / "testserver.go").read_text()
edited = edited.replace("server.GenericAPIServer.LoopbackClientConfig", "spawned.Config")
(crds / "testserver.go").write_text(edited)
for name in ["spawn.go", "extensions.go"]:
    shutil.copy(here / name, crds / name)
