"""Drives an API server with the official Python client: typed and dynamic, watches, patches, errors. KUBECONFIG names the server."""

import os
import tempfile
import threading
import unittest

import yaml
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from kubernetes.stream import stream

PATIENCE_SECONDS = 30

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.python.coracle.example}
spec:
  group: python.coracle.example
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              cronSpec: {type: string, pattern: '^[*0-9/, -]+$'}
              replicas: {type: integer, default: 1}
          status:
            type: object
            properties:
              replicas: {type: integer}
"""


class Client(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        config.load_kube_config()
        cls.core = client.CoreV1Api()
        cls.apps = client.AppsV1Api()
        made = cls.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(generate_name="python-")))
        cls.namespace = made.metadata.name

    @classmethod
    def tearDownClass(cls):
        cls.core.delete_namespace(cls.namespace)

    def config_map(self, name, **data):
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"of": self.id().rsplit(".", 1)[1]}), data=data)
        return self.core.create_namespaced_config_map(self.namespace, body)

    def test_objects_live_from_create_to_delete(self):
        made = self.config_map("life", a="1")
        self.assertTrue(made.metadata.uid and made.metadata.creation_timestamp)
        patched = self.core.patch_namespaced_config_map("life", self.namespace, {"data": {"b": "2"}})
        self.assertEqual(patched.data, {"a": "1", "b": "2"})
        patched.data = {"c": "3"}
        replaced = self.core.replace_namespaced_config_map("life", self.namespace, patched)
        self.assertEqual(replaced.data, {"c": "3"})
        with self.assertRaises(ApiException) as stale:
            self.core.replace_namespaced_config_map("life", self.namespace, made)
        self.assertEqual((stale.exception.status, stale.exception.reason), (409, "Conflict"))
        listed = self.core.list_namespaced_config_map(self.namespace, label_selector="of=test_objects_live_from_create_to_delete")
        self.assertEqual([item.metadata.name for item in listed.items], ["life"])
        gone = self.core.delete_namespaced_config_map("life", self.namespace)
        self.assertIn("Success", str(gone))
        with self.assertRaises(ApiException) as missing:
            self.core.read_namespaced_config_map("life", self.namespace)
        self.assertEqual(missing.exception.status, 404)

    def test_a_watch_tells_what_happens_and_ends_in_time(self):
        seen = []
        since = self.core.list_namespaced_secret(self.namespace).metadata.resource_version

        def change():
            body = client.V1Secret(metadata=client.V1ObjectMeta(name="watched"), string_data={"a": "b"})
            self.core.create_namespaced_secret(self.namespace, body)
            self.core.patch_namespaced_secret("watched", self.namespace, {"metadata": {"labels": {"x": "y"}}})
            self.core.delete_namespaced_secret("watched", self.namespace)

        writer = threading.Timer(0.1, change)
        writer.start()
        for event in watch.Watch().stream(
            self.core.list_namespaced_secret, self.namespace, resource_version=since, timeout_seconds=PATIENCE_SECONDS,
            field_selector="metadata.name=watched",
        ):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                break
        writer.join()
        self.assertEqual(seen, [("ADDED", "watched"), ("MODIFIED", "watched"), ("DELETED", "watched")])

    def test_every_answer_of_a_deployment_passes_the_clients_checks(self):
        container = client.V1Container(
            name="c", image="registry.example/c:1", ports=[client.V1ContainerPort(container_port=80)],
            resources=client.V1ResourceRequirements(requests={"cpu": "100m"}, limits={"memory": "64Mi"}),
            liveness_probe=client.V1Probe(http_get=client.V1HTTPGetAction(path="/", port="http")),
        )
        template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"app": "web"}), spec=client.V1PodSpec(containers=[container]))
        spec = client.V1DeploymentSpec(replicas=2, selector=client.V1LabelSelector(match_labels={"app": "web"}), template=template)
        container.ports[0].name = "http"
        self.apps.create_namespaced_deployment(self.namespace, client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec))
        scale = self.apps.patch_namespaced_deployment_scale("web", self.namespace, {"spec": {"replicas": 5}})
        self.assertEqual(scale.spec.replicas, 5)
        read = self.apps.read_namespaced_deployment("web", self.namespace)
        self.assertEqual((read.spec.replicas, read.spec.strategy.type, read.spec.template.spec.dns_policy), (5, "RollingUpdate", "ClusterFirst"))
        self.assertEqual(read.spec.template.spec.containers[0].resources.requests, {"cpu": "100m"})

    def test_patches_of_every_type_change_what_they_say(self):
        template = {"metadata": {"labels": {"app": "p"}}, "spec": {"containers": [{"name": "a", "image": "registry.example/a:1"}]}}
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": "p"}}, "template": template}
        self.apps.create_namespaced_deployment(self.namespace, {"metadata": {"name": "p", "labels": {"x": "y", "z": "z"}}, "spec": spec})

        def patch(body, content_type, **more):
            return self.apps.patch_namespaced_deployment("p", self.namespace, body, _content_type=content_type, **more)

        by_path = patch([{"op": "replace", "path": "/spec/replicas", "value": 2}, {"op": "remove", "path": "/metadata/labels/x"}],
                        "application/json-patch+json")
        self.assertEqual((by_path.spec.replicas, by_path.metadata.labels), (2, {"z": "z"}))
        added = {"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "registry.example/b:1"}]}}}}
        by_name = patch(added, "application/strategic-merge-patch+json")
        self.assertEqual(sorted(c.name for c in by_name.spec.template.spec.containers), ["a", "b"])
        merged = patch({"metadata": {"labels": {"z": None}}, **added}, "application/merge-patch+json")
        self.assertEqual(([c.name for c in merged.spec.template.spec.containers], merged.metadata.labels), (["b"], None))
        applied = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 7}}
        with self.assertRaises(ApiException) as conflict:
            patch(applied, "application/apply-patch+yaml", field_manager="python")
        self.assertEqual((conflict.exception.status, "conflict with" in conflict.exception.body), (409, True))
        forced = patch(applied, "application/apply-patch+yaml", field_manager="python", force=True)
        self.assertEqual(forced.spec.replicas, 7)
        with self.assertRaises(ApiException) as missing:
            patch([{"op": "test", "path": "/spec/replicas", "value": 1}], "application/json-patch+json")
        self.assertEqual(missing.exception.status, 422)

    def test_lists_of_every_kind_of_the_client_are_read(self):
        calls = [
            self.core.list_node, self.core.list_namespace, self.core.list_pod_for_all_namespaces, self.core.list_service_for_all_namespaces,
            self.core.list_persistent_volume, self.apps.list_deployment_for_all_namespaces, client.BatchV1Api().list_job_for_all_namespaces,
            client.RbacAuthorizationV1Api().list_cluster_role, client.NetworkingV1Api().list_ingress_for_all_namespaces,
            client.SchedulingV1Api().list_priority_class, client.FlowcontrolApiserverV1Api().list_flow_schema,
            client.ApiregistrationV1Api().list_api_service, client.StorageV1Api().list_storage_class, client.DiscoveryV1Api().list_endpoint_slice_for_all_namespaces,
        ]
        for call in calls:
            with self.subTest(call.__name__):
                self.assertTrue(call().metadata.resource_version)
        self.assertGreater(len(client.RbacAuthorizationV1Api().list_cluster_role().items), 20)

    def test_pages_and_limits(self):
        for n in range(5):
            self.config_map(f"page-{n}")
        first = self.core.list_namespaced_config_map(self.namespace, limit=2, label_selector="of=test_pages_and_limits")
        rest = self.core.list_namespaced_config_map(self.namespace, _continue=first.metadata._continue, label_selector="of=test_pages_and_limits")
        self.assertEqual((len(first.items), len(rest.items)), (2, 3))

    def test_manifests_are_created_and_invalid_ones_refused(self):
        manifests = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "from-yaml"}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "from-yaml"}, "spec": {"ports": [{"port": 80}]}},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "from-yaml"},
             "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
        ]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
            yaml.safe_dump_all(manifests, file)
        utils.create_from_yaml(client.ApiClient(), file.name, namespace=self.namespace)
        with self.assertRaises(utils.FailToCreateError) as again:
            utils.create_from_yaml(client.ApiClient(), file.name, namespace=self.namespace)
        os.unlink(file.name)
        self.assertEqual([each.reason for each in again.exception.api_exceptions], ["Conflict"] * 3)
        self.core.read_namespaced_service_account("from-yaml", self.namespace)
        self.assertTrue(self.core.read_namespaced_service("from-yaml", self.namespace).spec.cluster_ip)
        with self.assertRaises(ApiException) as invalid:
            self.config_map("Not A Name")
        self.assertEqual(invalid.exception.status, 422)
        self.assertIn("RFC 1123", invalid.exception.body)

    def test_custom_resources_by_the_dynamic_client(self):
        definitions = client.ApiextensionsV1Api()
        definitions.create_custom_resource_definition(yaml.safe_load(CRD))
        self.addCleanup(definitions.delete_custom_resource_definition, "crontabs.python.coracle.example")
        for _ in range(PATIENCE_SECONDS * 10):
            status = definitions.read_custom_resource_definition("crontabs.python.coracle.example").status
            if any(c.type == "Established" and c.status == "True" for c in status.conditions or []):
                break
        objects = dynamic.DynamicClient(client.ApiClient())
        crontabs = objects.resources.get(api_version="python.coracle.example/v1", kind="CronTab")
        body = {"apiVersion": "python.coracle.example/v1", "kind": "CronTab", "metadata": {"name": "c"}, "spec": {"cronSpec": "* * 1"}}
        made = crontabs.create(body=body, namespace=self.namespace)
        self.assertEqual(made.spec.replicas, 1)
        with self.assertRaises(ConflictError):
            crontabs.create(body=body, namespace=self.namespace)
        applied = crontabs.server_side_apply(
            body={**body, "spec": {"replicas": 3}}, namespace=self.namespace, field_manager="python", force_conflicts=True)
        self.assertEqual((applied.spec.replicas, applied.spec.cronSpec), (3, "* * 1"))
        crontabs.status.patch(
            body={"apiVersion": "python.coracle.example/v1", "kind": "CronTab", "metadata": {"name": "c"}, "status": {"replicas": 3}},
            name="c", namespace=self.namespace, content_type="application/merge-patch+json")
        self.assertEqual(crontabs.get(name="c", namespace=self.namespace).status.replicas, 3)
        listed = client.CustomObjectsApi().list_namespaced_custom_object("python.coracle.example", "v1", self.namespace, "crontabs")
        self.assertEqual(listed["kind"], "CronTabList")
        crontabs.delete(name="c", namespace=self.namespace)
        with self.assertRaises(NotFoundError):
            crontabs.get(name="c", namespace=self.namespace)

    @unittest.skipUnless(os.environ.get("IMAGE"), "no node that runs containers")
    def test_commands_run_in_containers_and_their_streams_are_told_apart(self):
        container = client.V1Container(name="c", image=os.environ["IMAGE"], command=["sh", "-c", "echo started; sleep 1000"])
        body = client.V1Pod(metadata=client.V1ObjectMeta(name="exec"), spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=0))
        self.core.create_namespaced_pod(self.namespace, body)
        self.addCleanup(self.core.delete_namespaced_pod, "exec", self.namespace)
        for event in watch.Watch().stream(self.core.list_namespaced_pod, self.namespace, field_selector="metadata.name=exec",
                                          timeout_seconds=PATIENCE_SECONDS):
            if event["object"].status.phase == "Running":
                break
        else:
            self.fail("the pod does not run")
        self.assertEqual(self.core.read_namespaced_pod_log("exec", self.namespace), "started\n")

        def run(command, **more):
            return stream(self.core.connect_get_namespaced_pod_exec, "exec", self.namespace, command=command, stdout=True, stderr=True,
                          tty=False, **more)

        self.assertEqual(run(["echo", "said"], stdin=False), "said\n")
        session = run(["sh", "-c", "read line; echo got $line; echo oh >&2; exit 3"], stdin=True, _preload_content=False)
        session.write_stdin("this\n")
        session.run_forever(timeout=PATIENCE_SECONDS)
        self.assertEqual((session.read_stdout(), session.read_stderr(), session.returncode), ("got this\n", "oh\n", 3))


if __name__ == "__main__":
    unittest.main(verbosity=1)
