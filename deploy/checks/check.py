"""Checks the chart, its render in deploy/kubernetes and the manifests in deploy/topology-operator, without a cluster.

check.py            exit 1 if anything is wrong
check.py --write    write the render first
"""

import copy
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

import cloudcoil.models.keda.v1alpha1 as keda
import cloudcoil.models.prometheus_operator.v1 as prometheus_operator
import helm_python
import jsonschema
import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
DEPLOY = HERE.parent
CHART = DEPLOY / "helm/trackfinity-unlocker"
RENDERS = DEPLOY / "kubernetes"
KUBERNETES = "1.31"
NAME, NAMESPACE = "trackfinity-unlocker", "trackfinity"
WRITTEN = "Written by `make render`: change the chart instead.\n"

MODELS = {
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): keda.TriggerAuthentication,
    ("monitoring.coreos.com/v1", "PodMonitor"): prometheus_operator.PodMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): prometheus_operator.PrometheusRule,
}
# The processes beside the worker, and what each gets from its Secret.
CONSOLE_KEYS = ["broker-url", "viewer-token", "operator-token"]
SIDE_PROCESSES = {"gateway": ["broker-url"], "console": CONSOLE_KEYS}
SIDE_ENDS = tuple(f"-{process}" for process in SIDE_PROCESSES)
# Values that must be refused, with a part of what is said.
REFUSED = [
    ({"replicas": 3}, "replicas"),
    ({"replicaCount": "three"}, "replicaCount"),
    ({"image": {"repo": "x"}}, "repo"),
    ({"settings": {"worker": {"drain_timeout": "25"}}}, "drain_timeout"),
    ({"settings": {"worker": {"drain_timeout": "1m"}}}, "drain_timeout"),
    ({"settings": {"worker": {"concurrency": 2001}}}, "concurrency"),
    ({"settings": {"worker": {"concurrency": "fast"}}}, "concurrency"),
    ({"settings": {"worker": {"concurrentcy": 1}}}, "concurrentcy"),
    ({"settings": {"log": {"requests": "none"}}}, "requests"),
    ({"settings": {"trackfinity": {"base_url": "ftp://acme"}}}, "base_url"),
    ({"settings": {"trackfinity": {"api_key": "x"}}}, "api_key"),
    ({"settings": {"topology": {"prefix": "amq.unlock"}}}, "prefix"),
    ({"history": {"enabled": "yes"}}, "enabled"),
    ({"history": {"maxAge": "90"}}, "maxAge"),
    ({"history": {"maxAge": "3651d"}}, "maxAge"),
    ({"history": {"maxBytes": "499MB"}}, "maxBytes"),
    ({"history": {"maxBytes": "5"}}, "maxBytes"),
    ({"settings": {"history": {"enabled": True}}}, "history"),
    # A ConfigMap would hold the login.
    ({"settings": {"trackfinity": {"base_url": "https://acme", "proxy": "http://u:p@proxy:1"}}}, "proxy"),
    ({"trackfinity": {"proxy": {"url": "http://user:password@proxy:3128"}}}, "url"),
    ({"trackfinity": {"proxy": {"url": "http://proxy"}}}, "url"),
    ({"trackfinity": {"proxy": {"url": "http://proxy:65536"}}}, "url"),
    (
        {"trackfinity": {"proxy": {"url": "http://proxy:3128"}}, "settings": {"trackfinity": {"base_url": "http://acme"}}},
        "is never used",
    ),
    ({"trackfinity": {"proxy": {"url": "http://proxy:3128", "secret": "x"}}}, "not both"),
    ({"trackfinity": {"certificateAuthority": {"configMap": "x", "secret": "y"}}}, "not both"),
    ({"appArmorProfile": {"type": "Unconfined"}}, "type"),
    ({"appArmorProfile": {"type": "Localhost"}}, "localhostProfile"),
    ({"secret": {"create": True, "data": {"api-key": "x"}}}, "secret"),
    ({"broker": {"tls": {"ca": True}}}, "tls"),
    ({"broker": {"tls": {"secret": "x", "clientCertificate": False}}}, "tls"),
    ({"broker": {"token": {"audience": "rabbitmq", "secret": "x"}}}, "token"),
    ({"broker": {"token": {"audience": "rabbitmq", "expirationSeconds": 599}}}, "expirationSeconds"),
    ({"gateway": {"broker": {"token": {"audience": "a b"}}}}, "audience"),
    ({"secret": {"create": True, "existing": "x", "data": {}}}, "secret"),
    ({"autoscaling": {"kind": "vpa"}}, "kind"),
    ({"autoscaling": {"kind": "hpa", "minReplicas": 5, "maxReplicas": 2}}, "maxReplicas"),
    *(
        ({"console": {"enabled": True} | values}, said)
        for values, said in [
            ({"replicaCount": 0}, "replicaCount"),
            ({"podDisruptionBudget": {"maxUnavailable": 0}}, "maxUnavailable"),
            ({"secret": {"create": True, "data": {"broker-url": "x"}}}, "viewer-token"),
            # The worker's Secret has Trackfinity's key.
            (
                {"secret": {"create": True, "data": dict.fromkeys(CONSOLE_KEYS, "x") | {"api-key": "x"}}},
                "api-key",
            ),
            ({"settings": {"listen": "0.0.0.0:1"}}, "listen"),
            ({"settings": {"trace_url": "https://jaeger.example.com"}}, "trace_url"),
            ({"ingress": {"enabled": True}}, "host"),
            ({"extraEnv": [{"name": "UNLOCKER__TRACKFINITY__API_KEY", "value": "x"}]}, "extraEnv"),
        ]
    ),
    ({"console": {"ingress": {"enabled": True, "host": "a.example.com"}}}, "ingress"),
    ({"console": {"secret": {"create": True, "data": dict.fromkeys(CONSOLE_KEYS, "x")}}}, "secret"),
    ({"podDisruptionBudget": {"maxUnavailable": 0}}, "maxUnavailable"),
    *(
        ({"gateway": {"enabled": True} | values}, said)
        for values, said in [
            ({"replicaCount": 1}, "replicaCount"),
            ({"maxWait": "30"}, "maxWait"),
            ({"maxWait": "51s"}, "maxWait"),
            ({"podDisruptionBudget": {"maxUnavailable": 0}}, "maxUnavailable"),
            ({"autoscaling": {"enabled": True, "minReplicas": 1}}, "minReplicas"),
            ({"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}, "maxReplicas"),
            ({"secret": {"create": True, "data": {}}}, "secret"),
            # The worker's Secret has Trackfinity's key.
            ({"secret": {"create": True, "data": {"broker-url": "x", "api-key": "x"}}}, "api-key"),
            ({"secret": {"data": {"broker-url": "x"}}}, "secret"),
            ({"clients": {"create": True, "data": {}}}, "clients"),
            ({"clients": {"create": True, "existing": "x", "data": {"shop": "x" * 32}}}, "clients"),
            ({"clients": {"create": True, "data": {"shop": "short"}}}, "shop"),
            ({"clients": {"create": True, "data": {"local": "x" * 32}}}, "local"),
            ({"clients": {"create": True, "data": {".shop": "x" * 32}}}, "shop"),
            ({"clients": {"create": True, "data": {"x" * 65: "x" * 32}}}, "does not match"),
            ({"ingress": {"enabled": True}}, "host"),
            ({"httpRoute": {"enabled": True, "hostnames": ["a.example.com"]}}, "parentRefs"),
            ({"httpRoute": {"enabled": True, "parentRefs": [{"name": "x"}]}}, "hostnames"),
            ({"extraEnv": [{"name": "UNLOCKER__TRACKFINITY__API_KEY", "value": "x"}]}, "extraEnv"),
        ]
    ),
    *(({"gateway": {part: {"enabled": True}}}, part) for part in ("ingress", "httpRoute", "autoscaling")),
    ({"gateway": {"clients": {"create": True, "data": {"shop": "x" * 32}}}}, "clients"),
]
faults = []


def fault(what):
    faults.append(what)
    print(f"FAIL  {what}", file=sys.stderr)


def strict(schema):
    """Refuses properties that are not named, as `kubectl apply --validate=strict` does."""
    schema = copy.deepcopy(schema)
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if "properties" in node and node.get("title") != "ObjectMeta":
                node.setdefault("additionalProperties", False)
            # Go takes flags anywhere in a pattern, Python only in front.
            if isinstance(node.get("pattern"), str) and "^(?i)" in node["pattern"]:
                node["pattern"] = "(?i)^" + node["pattern"].removeprefix("^(?i)")
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    return schema


OPERATOR = yaml.safe_load((HERE / "topology-operator.schema.yaml").read_text())
GATEWAY_API = yaml.safe_load((HERE / "gateway-api.schema.yaml").read_text())
SCHEMAS = {key: strict(model.model_json_schema(by_alias=True)) for key, model in MODELS.items()}
SCHEMAS |= {
    ("rabbitmq.com/v1beta1", kind): {"$ref": f"#/$defs/{kind}", "$defs": OPERATOR["$defs"]}
    for kind in OPERATOR["$defs"]
    if kind[0].isupper()
}
SCHEMAS[("gateway.networking.k8s.io/v1", "HTTPRoute")] = GATEWAY_API["$defs"]["HTTPRoute"]


def why_invalid(document):
    """What is wrong with a Kubernetes object, or None."""
    key = (document.get("apiVersion"), document.get("kind"))
    try:
        if key in SCHEMAS:
            jsonschema.validate(document, SCHEMAS[key])
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"no schema for {key}"
    return None


def valid(documents, where):
    for document in documents:
        wrong = why_invalid(document)
        if wrong:
            fault(f"{where}: {document.get('kind')} {document.get('metadata', {}).get('name')}: {wrong}")


def deep(document, path, value):
    """A copy with one value set, by the path to it."""
    document = copy.deepcopy(document)
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return document


def render(chart, values):
    rendered = chart.render(values, name=NAME, namespace=NAMESPACE)
    texts = {
        pathlib.PurePath(path).relative_to("trackfinity-unlocker/templates").as_posix(): text.strip()
        for path, text in sorted(rendered.items())
    }
    return {path: text for path, text in texts.items() if text and path.endswith(".yaml")}


def documents_of(texts):
    return [document for text in texts.values() for document in yaml.safe_load_all(text) if document]


def check_workload(documents, where, values):
    """What no schema says: restricted pods, and a grace period that lets the process end."""
    pods = {}
    for document in documents:
        metadata = document["metadata"]
        if document["kind"] == "Deployment":
            pods[metadata["name"]] = document["spec"]["template"]["spec"]
        if document["kind"] == "Pod":
            pods[metadata["name"]] = document["spec"]
    name = values["fullnameOverride"] or NAME
    grace = {name: int(values["settings"]["worker"]["drain_timeout"].rstrip("s")) + 20}
    for process in SIDE_PROCESSES:
        if values[process]["enabled"]:
            grace[f"{name}-{process}"] = 20
    if pods.keys() != grace.keys() | {f"{process}-check" for process in grace}:
        fault(f"{where}: the pods are {list(pods)}, not one for each process and its test")
    for process, seconds in grace.items():
        if pods[process]["terminationGracePeriodSeconds"] != seconds:
            fault(f"{where}: the grace period of {process} is not {seconds} s")
    for pod in pods.values():
        own = pod["securityContext"]
        if not (own["runAsNonRoot"] and own["seccompProfile"]["type"] == "RuntimeDefault"):
            fault(f"{where}: a pod is not restricted")
        if own.get("appArmorProfile", {}) != values["appArmorProfile"]:
            fault(f"{where}: a pod has another AppArmor profile than the chart's")
        if pod["automountServiceAccountToken"]:
            fault(f"{where}: a pod has a token")
        for container in pod["containers"]:
            security = container["securityContext"]
            if (
                security["allowPrivilegeEscalation"]
                or not security["readOnlyRootFilesystem"]
                or security["capabilities"] != {"drop": ["ALL"]}
            ):
                fault(f"{where}: a container is not restricted")
    for process in SIDE_PROCESSES:
        if values[process]["enabled"]:
            for pod in (f"{name}-{process}", f"{name}-{process}-check"):
                check_side_pod(process, pods[pod], documents, f"{where}: {pod}", values)
    for process, pod in pods.items():
        check_login(pod, documents, f"{where}: {process}")
    check_history(documents, where, name, values["history"])
    check_route(documents, pods, where, name, values["trackfinity"])
    check_policies(documents, where, values["trackfinity"]["proxy"])


def check_login(pod, documents, where):
    """The files that a process logs in to RabbitMQ with are those that are mounted."""
    settings = next(v["configMap"]["name"] for v in pod["volumes"] if v["name"] == "settings")
    keys = settings_of(documents, settings)["broker"]
    named = {keys[key] for key in keys.keys() & {"token_file", "client_certificate_file", "client_key_file", "ca_file"}}
    mounted = set()
    for volume in pod["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            files = source.get("secret", {}).get("items", [source.get("serviceAccountToken")])
            mounted |= {f"/run/secrets/unlocker-broker/{file['path']}" for file in files}
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    if named != mounted or bool(named) != ("/run/secrets/unlocker-broker" in mounts):
        fault(f"{where}: its settings name the files {sorted(named)}, and {sorted(mounted)} are mounted")


def settings_of(documents, name):
    config = next(d for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == name)
    return tomllib.loads(config["data"]["settings.toml"])


def check_history(documents, where, name, history):
    """The worker gets the limits of the history, if it is on."""
    wanted = {"enabled": True, "max_age": history["maxAge"], "max_bytes": history["maxBytes"]}
    if settings_of(documents, name).get("history") != (wanted if history["enabled"] else None):
        fault(f"{where}: the worker's settings of the history are not the chart's")


def check_route(documents, pods, where, name, route):
    """Each file that the worker's settings name is mounted in its pods, from the Secret or ConfigMap of the values."""
    settings = settings_of(documents, name)["trackfinity"]
    authority, proxy = route["certificateAuthority"], route["proxy"]
    has_authority = bool(authority["configMap"] or authority["secret"])
    wanted = {"ca_file": has_authority, "proxy": bool(proxy["url"]), "proxy_file": bool(proxy["secret"])}
    if {key: key in settings for key in wanted} != wanted or (proxy["url"] and settings["proxy"] != proxy["url"]):
        fault(f"{where}: the worker's way to Trackfinity is {settings}")
    for pod in (pods[name], pods[f"{name}-check"]):
        mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for key, source in (("ca_file", authority), ("proxy_file", proxy)):
            if key not in settings:
                continue
            folder, file = settings[key].rsplit("/", 1)
            mount = mounts[folder]
            volume = volumes[mount["name"]]
            own = volume.get("secret") or volume["configMap"]
            named = own.get("secretName") or own["name"]
            if (
                not mount["readOnly"]
                or named not in (source["secret"], source.get("configMap"))
                or own["items"] != [{"key": source["key"], "path": file}]
            ):
                fault(f"{where}: {key} is mounted as {mount} from {volume}")


def check_side_pod(process, pod, documents, where, values):
    """Nothing of Trackfinity reaches a gateway or a console, and it cannot write its files."""
    secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    workers = next(d for d in documents if d["kind"] == "Deployment" and not d["metadata"]["name"].endswith(SIDE_ENDS))
    shared = [
        volume["secret"]["secretName"]
        for volume in workers["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume and any(volume["secret"]["secretName"] == own["secretName"] for own in secrets.values())
    ]
    if shared or set(secrets) != {"secrets"} | ({"clients"} if process == "gateway" else set()):
        fault(f"{where}: it mounts the secrets {secrets}, of which the worker has {shared}")
    if secrets["secrets"]["items"] != [{"key": key, "path": key} for key in SIDE_PROCESSES[process]]:
        fault(f"{where}: it gets other keys from its Secret than {SIDE_PROCESSES[process]}")
    for container in pod["containers"]:
        for mount in container["volumeMounts"]:
            if not mount["readOnly"]:
                fault(f"{where}: {mount['name']} can be written")
        if any("TRACKFINITY" in variable["name"] for variable in container["env"]):
            fault(f"{where}: it has a variable of Trackfinity's")
    settings = next(v["configMap"]["name"] for v in pod["volumes"] if v["name"] == "settings")
    settings = settings_of(documents, settings)
    wanted = {"broker", process, "topology"} | ({"history"} if values["history"]["enabled"] else set())
    if process == "console" and values["settings"].get("results"):
        wanted.add("results")
    if settings.keys() != wanted:
        fault(f"{where}: its settings are {list(settings)}")


def check_policies(documents, where, proxy):
    """NetworkPolicies add up. So each pod must have exactly one, and only a worker's may lead to Trackfinity, or to the proxy
    before it."""
    policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    if not policies:
        return
    for document in documents:
        if document["kind"] not in ("Deployment", "Pod"):
            continue
        name = document["metadata"]["name"]
        labels = document["metadata"]["labels"]
        if document["kind"] == "Deployment":
            labels = document["spec"]["template"]["metadata"]["labels"]
        selecting = [p for p in policies if p["podSelector"]["matchLabels"].items() <= labels.items()]
        if len(selecting) != 1:
            fault(f"{where}: {len(selecting)} network policies select {name}")
        ports = {port["port"] for policy in selecting for rule in policy["egress"] for port in rule["ports"]}
        to_trackfinity = {8080} if proxy["url"] or proxy["secret"] else {443}
        if name.removesuffix("-check").endswith(SIDE_ENDS):
            to_trackfinity = set()
        if ports & {443, 8080} != to_trackfinity:
            fault(f"{where}: {name} may use the ports {sorted(map(str, ports))}")


def render_files(rendered):
    """The files of deploy/kubernetes: the chart with its defaults, and the objects that each other process adds."""

    def text(header, documents):
        return header + WRITTEN + "".join(f"---\n{text.removeprefix('---').strip()}\n" for text in documents)

    def without_tests(texts):
        return {path: text for path, text in texts.items() if not path.startswith("tests/")}

    defaults = without_tests(rendered["defaults"])
    files = {"trackfinity-unlocker.yaml": text("# The chart in deploy/helm with its defaults. ", defaults.values())}
    for process in SIDE_PROCESSES:
        all_objects = without_tests(rendered[f"{process}-values"])
        changed = [path for path in defaults if all_objects.get(path) != defaults[path]]
        if changed:
            fault(f"{process}.enabled changes {changed}, not only {process}/")
        added = [text for path, text in all_objects.items() if path not in defaults]
        header = f"# What {process}.enabled adds to the chart in deploy/helm. "
        files[f"trackfinity-unlocker-{process}.yaml"] = text(header, added)
    return files


def check_chart(chart_directory, write):
    for message in helm_python.lint(chart_directory)["messages"]:
        if message["severity"] > 1:
            fault(f"helm lint: {message['path']}: {message['error']}")
    with helm_python.Chart.load(chart_directory) as chart:
        sets = {"defaults": {}}
        for path in sorted((CHART / "ci").glob("*-values.yaml")):
            sets[path.stem] = yaml.safe_load(path.read_text())
        rendered = {name: render(chart, values) for name, values in sets.items()}
        for name, texts in rendered.items():
            documents = documents_of(texts)
            valid(documents, name)
            merged = chart.merge_values(sets[name])
            check_workload(documents, name, merged)
            print(f"ok    the chart with {name}: {len(documents)} objects")
        for values, said in REFUSED:
            try:
                render(chart, values)
                fault(f"values that should be refused are not: {values}")
            except helm_python.HelmError as error:
                if said not in str(error):
                    fault(f"{values} are refused for another reason: {error}")
        print(f"ok    {len(REFUSED)} wrong values are refused")
    everything = {(d["apiVersion"], d["kind"]) for d in documents_of(rendered["everything-values"])}
    for kind in [*MODELS, ("gateway.networking.k8s.io/v1", "HTTPRoute")]:
        if kind not in everything:
            fault(f"everything-values renders no {kind[1]}")

    for name, text in render_files(rendered).items():
        path = RENDERS / name
        if write:
            path.write_text(text)
        if not path.is_file() or path.read_text() != text:
            fault(f"deploy/kubernetes/{name} is not the chart's render: run `make render`")
    for path in sorted(RENDERS.glob("*.example.yaml")):
        valid(list(yaml.safe_load_all(path.read_text())), path.name)
    return documents_of(rendered["everything-values"])


def patched(documents, kustomization):
    """The objects that a kustomization's patches change, as Kustomize changes them."""
    changed = []
    for patch in yaml.safe_load(kustomization.read_text())["patches"]:
        found = [
            document
            for document in documents
            if (document["kind"], document["metadata"]["name"]) == (patch["target"]["kind"], patch["target"]["name"])
        ]
        if len(found) != 1:
            fault(f"{kustomization.parent.name}: a patch is for {len(found)} objects: {patch['target']}")
            continue
        for operation in yaml.safe_load(patch["patch"]):
            path = operation["path"].strip("/").split("/")
            node = found[0]
            for key in path:
                node = node[key]
            if operation["op"] != "replace" or node == operation["value"]:
                fault(f"{kustomization.parent.name}: a patch replaces nothing: {operation}")
            changed.append(deep(found[0], path, operation["value"]))
    return changed


def check_manifests():
    """The topology operator's objects, against what its reference documents."""
    documents = []
    for directory in ("topology-operator", "topology-operator-history"):
        for path in sorted((DEPLOY / directory).glob("*.yaml")):
            if path.name != "kustomization.yaml":
                documents += [document for document in yaml.safe_load_all(path.read_text()) if document]
    valid(documents, "deploy/topology-operator")
    valid(patched(documents, DEPLOY / "topology-operator-history/kustomization.yaml"), "with the history's patches")
    for document in documents:
        if document["kind"] == "Queue" and document["spec"].get("deletionPolicy") != "retain":
            fault(f"queue {document['metadata']['name']} would be deleted with its object")
    print(f"ok    the topology operator's manifests: {len(documents)} objects")
    return documents


def check_typos(documents):
    """A typo anywhere must be found, else the validation above is worth nothing."""
    found = 0
    for document in documents:
        if document["kind"] == "Secret" and "type" not in document:
            continue
        body = "spec" if "spec" in document else next(k for k in document if k not in ("apiVersion", "kind"))
        for path in (["typo"], [body, "typo"]):
            if path == ["data", "typo"] or (len(path) == 2 and body in ("data", "stringData", "metadata")):
                continue
            if why_invalid(deep(document, path, 1)) is None:
                fault(f"a typo in {document['kind']} at {'.'.join(path)} goes unnoticed")
            found += 1
    print(f"ok    {found} typos are found")


def check_lint():
    """YAML and the Dockerfile by their linters."""
    root = DEPLOY.parent
    binaries = pathlib.Path(sys.executable).parent
    files = [
        str(path.relative_to(root))
        for path in sorted(DEPLOY.rglob("*.y*ml"))
        if "templates" not in path.parts and not path.is_symlink()
    ]
    for command in (
        [binaries / "yamllint", "--strict", "--config-file", HERE / "yamllint.yaml", *files],
        [binaries / "hadolint", "Dockerfile"],
        *(
            [binaries / "check-jsonschema", "--quiet", "--builtin-schema", f"vendor.{schema}", *sorted(found)]
            for schema, found in (
                ("compose-spec", [root / "deploy/compose.yaml", root / "docs/testing/compose.yaml"]),
                ("github-workflows", (root / ".github/workflows").glob("*.yml")),
                ("dependabot", (root / ".github").glob("dependabot.yml")),
                ("renovate", (root / ".github").glob("renovate.json")),
            )
        ),
    ):
        if subprocess.run(command, cwd=root, check=False).returncode:
            fault(f"{command[0].name} finds faults")
    print(f"ok    yamllint: {len(files)} files; hadolint: the Dockerfile; both compose.yaml and .github by their schemas")
    for name, service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].items():
        for source in (volume.split(":")[0] for volume in service.get("volumes", [])):
            if source.startswith(".") and not (DEPLOY / source).is_file():
                fault(f"compose.yaml: {name} mounts {source}, which is not there")
        if name in SIDE_PROCESSES and any("TRACKFINITY" in variable for variable in service["environment"]):
            fault(f"compose.yaml: the {name} gets settings of Trackfinity's")


def check_versions():
    """The version stands in Cargo.toml, the toolchain in rust-toolchain.toml; elsewhere they are repeated."""
    root = DEPLOY.parent
    version = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    toolchain = tomllib.loads((root / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    workflows = [path.relative_to(root) for path in sorted((root / ".github/workflows").glob("*.yml"))]
    repeated = [
        (version, CHART / "Chart.yaml", r"(?m)^(?:version|appVersion): (.*)$"),
        (version, "deploy/compose.yaml", r"image: trackfinity-unlocker:(.*)"),
        (version, "docs/testing/compose.yaml", r"image: trackfinity-unlocker:(.*)"),
        (version, "docs/testing/test_containers.py", r"trackfinity-unlocker:([\d.]+)"),
        (version, "docs/testing/containers.rs", r'"trackfinity-unlocker", "([\d.]+)"'),
        (version, "docs/production.md", r"trackfinity-unlocker:(\d[\w.-]*)"),
        (toolchain, "Dockerfile", r"FROM rust:([\d.]+)"),
        *((toolchain, path, r"container: rust:([\d.]+)") for path in workflows),
    ]
    for wanted, path, pattern in repeated:
        for found in re.findall(pattern, (root / path).read_text()):
            if found != wanted:
                fault(f"{path} says {found}, not {wanted}")
    print(f"ok    version {version} and Rust {toolchain} are the same everywhere")


def check_release():
    """Renovate finds each digest in the Dockerfile, for the image that it belongs to; who verifies names this workflow."""
    root = DEPLOY.parent
    dockerfile = (root / "Dockerfile").read_text()
    manager = json.loads((root / ".github/renovate.json").read_text())["customManagers"][0]
    pattern = re.sub(r"\(\?<(\w+)>", r"(?P<\1>", manager["matchStrings"][0])
    found = {f"{m['depName']}:{m['currentValue']}": m["depType"] for m in re.finditer(pattern, dockerfile)}
    bases = dict(re.findall(r"(?m)^FROM (\S+?)\$\{(\w+):\+@\}\$\{\2\}", dockerfile))
    if found != bases or len(bases) != len(re.findall(r"(?m)^FROM ", dockerfile)):
        fault(f"Dockerfile: Renovate finds {found}, the images are {bases}")
    workflow = (root / ".github/workflows/release.yml").read_text()
    page = (root / "docs/release.md").read_text()
    name = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["package"]["repository"].removeprefix("https://github.com/")
    owner = name.split("/")[0]
    for what, there in [
        (f"WORKFLOW={name}/.github/workflows/release.yml", page),
        (f"IMAGE=ghcr.io/{name}\n", page),
        (f"CHART=ghcr.io/{owner}/charts/{CHART.name}\n", page),
        ("PUBLISHED: ghcr.io/${{ github.repository }}\n", workflow),
        ("CHARTS: ghcr.io/${{ github.repository_owner }}/charts\n", workflow),
    ]:
        if what not in there:
            fault(f"docs/release.md or the workflow of a release lacks {what!r}")
    identity = re.search(r"subjectRegExp: (\S+)", page)[1]
    if not re.search(identity, f"https://github.com/{name}/.github/workflows/release.yml@refs/tags/v0.1.0"):
        fault(f"docs/release.md: {identity} is not the release's workflow")
    print(f"ok    {len(bases)} base images, which Renovate finds; docs/release.md names what the workflow publishes")


def main():
    with tempfile.TemporaryDirectory() as copied:
        # Helm says a line about every symbolic link; a copy has none.
        chart = shutil.copytree(CHART, pathlib.Path(copied) / CHART.name)
        everything = check_chart(str(chart), "--write" in sys.argv[1:])
    manifests = check_manifests()
    check_typos(everything + manifests)
    check_lint()
    check_versions()
    check_release()
    sys.exit(1 if faults else 0)


main()
