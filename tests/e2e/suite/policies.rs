//! What may reach the pods, and what the pods may reach: NetworkPolicies, Pod Security, rights.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_e2e::cases;
use spillway_e2e::cluster::SYSTEM;
use spillway_e2e::space::Space;
use spillway_e2e::traffic::{Load, Traffic};
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::wait::until;

cases![
    policies_let_records_and_metrics_in_and_nothing_else,
    pods_are_restricted_and_may_do_nothing_but_their_work,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    /// Somebody listens there and answered.
    Answered,
    /// The pod itself said that nobody listens there.
    Refused,
    /// Nothing came back.
    Blocked,
}

/// What comes of knocking at a port from a space's ClickHouse, which can fetch URLs. Over a connection of its own:
/// policies say nothing of those that are open.
async fn knock(from: &Space, address: &str, port: u16) -> Reached {
    let query = format!(
        "SELECT count() FROM url('http://{address}:{port}/livez', 'LineAsString', 'line String', headers('Connection'='close')) \
         SETTINGS http_connection_timeout = 1, http_receive_timeout = 5, http_max_tries = 1"
    );
    match from.try_sql(&query).await {
        Ok(_) => Reached::Answered,
        Err(error) if error.contains("HTTP status code") => Reached::Answered,
        Err(error) if error.contains("refused") => Reached::Refused,
        Err(error) if error.to_lowercase().contains("timeout") => Reached::Blocked,
        Err(error) => panic!("{address}:{port}: {error}"),
    }
}

/// What a pod lets in from where.
type Seen = BTreeMap<(&'static str, u16), BTreeMap<&'static str, Reached>>;

/// A port on which nobody listens, beside those on which somebody does.
const NOBODYS: u16 = 9999;
const PORTS: [(&str, u16); 6] = [
    ("ingest", 8080),
    ("ingest", 9090),
    ("ingest", NOBODYS),
    ("syncer", 9091),
    ("syncer", 8080),
    ("syncer", NOBODYS),
];

async fn look(own: &Space, other: &Space) -> Seen {
    let mut addresses = BTreeMap::new();
    for component in ["ingest", "syncer"] {
        let pods = own.component(component).await;
        addresses.insert(component, address(pods.first().expect("a pod")));
    }
    let doors = PORTS.into_iter().flat_map(|door| [("same", own), ("other", other)].map(|from| (door, from)));
    let knocks = doors.map(async |((component, port), (name, from))| {
        ((component, port), name, knock(from, &addresses[component], port).await)
    });
    let mut seen = Seen::new();
    for (door, name, reached) in futures::future::join_all(knocks).await {
        seen.entry(door).or_default().insert(name, reached);
    }
    seen
}

fn address(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).expect("an address")
}

/// What is to be seen when metrics may be read from these places and everything else is closed.
fn closed_but_for(same: Reached, other: Reached) -> Seen {
    let from = |same, other| BTreeMap::from([("same", same), ("other", other)]);
    let expected = |(component, port)| match (component, port) {
        ("ingest", 8080) => from(Reached::Answered, Reached::Answered),
        (_, 9090 | 9091) => from(same, other),
        _ => from(Reached::Blocked, Reached::Blocked),
    };
    PORTS.into_iter().map(|port| (port, expected(port))).collect()
}

async fn policies_let_records_and_metrics_in_and_nothing_else(space: &Space) {
    use Reached::{Answered, Blocked, Refused};
    let other = Space::new(Arc::clone(&space.cluster), &format!("other {}", space.test));
    assert_ne!(other.namespace, space.namespace);
    other.open().await;
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(600, 200)).await;
    let becomes = async |what: &str, expected: Seen| {
        let mut last = Seen::new();
        for _ in 0..5 {
            last = look(space, &other).await;
            if last == expected {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(last, expected, "{what}");
    };

    becomes("metrics may be read from everywhere", closed_but_for(Answered, Answered)).await;
    let from = |namespace: &str| json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    space.change_spec(json!({"networkPolicy": {"metricsFrom": from(&other.namespace)}})).await;
    space.is_ready().await;
    becomes("metrics may be read from the other namespace", closed_but_for(Blocked, Answered)).await;
    space.change_spec(json!({"networkPolicy": {"metricsFrom": from(&space.namespace)}})).await;
    space.is_ready().await;
    becomes("metrics may be read from their own namespace", closed_but_for(Answered, Blocked)).await;

    // Without policies the same ports can be told from closed ones, so it was the policies that closed them.
    space.change_spec(json!({"networkPolicy": {"enabled": false}})).await;
    space.is_ready().await;
    let open = |(component, port)| {
        let listens = matches!((component, port), ("ingest", 8080 | 9090) | ("syncer", 9091));
        let seen = if listens { Answered } else { Refused };
        ((component, port), BTreeMap::from([("same", seen), ("other", seen)]))
    };
    becomes("nothing is closed", PORTS.into_iter().map(open).collect()).await;

    let operators: Api<Pod> = Api::namespaced(space.cluster.client.clone(), SYSTEM);
    let selected = ListParams::default().labels("app.kubernetes.io/name=spillway");
    for pod in operators.list(&selected).await.expect("pods can be listed") {
        let address = address(&pod);
        assert_eq!(knock(space, &address, 9092).await, Answered, "metrics of {}", pod.name_any());
        assert_eq!(knock(space, &address, NOBODYS).await, Blocked, "{}", pod.name_any());
    }
    traffic.stop().await;
    other.close().await;
}

/// A client that has nothing but the token of a pipeline's ServiceAccount.
async fn as_the_pods_of(space: &Space, account: &str) -> Client {
    let spec = TokenRequestSpec { expiration_seconds: Some(600), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts = space.api::<ServiceAccount>();
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
    space.cluster.client_of(made.expect("a token").status.expect("a token").token).await
}

/// What somebody may do in the namespace, besides asking what that is.
async fn rights(space: &Space, who: &Client) -> Vec<ResourceRule> {
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(space.namespace.clone()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let all: Api<SelfSubjectRulesReview> = Api::all(who.clone());
    let status = all.create(&PostParams::default(), &review).await.expect("everybody may ask").status;
    let mut rules = status.expect("an answer").resource_rules;
    let everybodys = ["authorization.k8s.io", "authentication.k8s.io"];
    rules.retain(|rule| {
        let groups = rule.api_groups.iter().flatten();
        !groups.into_iter().all(|group| everybodys.contains(&group.as_str()))
    });
    rules
}

fn assert_denied<T: Debug>(what: &str, answer: kube::Result<T>) {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => {}
        other => panic!("{what} is not denied: {other:?}"),
    }
}

/// Everything that one may do with objects of a kind, refused.
async fn may_do_nothing_with<K>(space: &Space, who: &Client, name: &str)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(who.clone(), &space.namespace);
    let kind = K::kind(&());
    assert_denied(&format!("list {kind}"), api.list(&ListParams::default()).await);
    assert_denied(&format!("get {kind}"), api.get(name).await);
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let patched = api.patch(name, &PatchParams::default(), &label).await;
    assert_denied(&format!("patch {kind}"), patched);
    let dry = DeleteParams { dry_run: true, ..DeleteParams::default() };
    assert_denied(&format!("delete {kind}"), api.delete(name, &dry).await);
}

async fn pods_are_restricted_and_may_do_nothing_but_their_work(space: &Space) {
    // A cluster that enforces nothing would show nothing.
    let privileged = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"},
        "spec": {"containers": [{"name": "root", "image": "none", "securityContext": {"privileged": true}}]},
    });
    let privileged: Pod = serde_json::from_value(privileged).expect("a pod");
    assert_denied("a privileged pod", space.api::<Pod>().create(&PostParams::default(), &privileged).await);

    space.ready_pipeline(json!({})).await;
    for (component, has_token) in [("ingest", false), ("syncer", true)] {
        let pods = space.component(component).await;
        assert_eq!(pods.len(), 2, "{component}");
        pods.iter().for_each(|pod| is_restricted(pod, has_token));
    }

    let lease = format!("{NAME}-syncer");
    let syncer = as_the_pods_of(space, &lease).await;
    let leases: Api<Lease> = Api::namespaced(syncer.clone(), &space.namespace);
    until("the syncer's update of its Lease", Duration::from_secs(30), async || {
        let held = leases.get(&lease).await.expect("the syncer may read its Lease");
        match leases.replace(&lease, &PostParams::default(), &held).await {
            Ok(_) => Some(()),
            // The one that holds it was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => None,
            Err(error) => panic!("the syncer may not update its Lease: {error}"),
        }
    })
    .await;
    let only = ResourceRule {
        api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
        resources: Some(vec!["leases".to_owned()]),
        resource_names: Some(vec![lease.clone()]),
        verbs: vec!["get".to_owned(), "update".to_owned()],
    };
    assert_eq!(rights(space, &syncer).await, [only]);
    assert_denied("list Leases", leases.list(&ListParams::default()).await);
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    assert_denied("patch its Lease", leases.patch(&lease, &PatchParams::default(), &label).await);
    assert_denied("delete its Lease", leases.delete(&lease, &DeleteParams::default()).await);
    let another = Lease {
        metadata: kube::api::ObjectMeta { name: Some("another".into()), ..Default::default() },
        ..Lease::default()
    };
    assert_denied("create a Lease", leases.create(&PostParams::default(), &another).await);
    let operators: Api<Lease> = Api::namespaced(syncer.clone(), SYSTEM);
    assert_denied("get the operator's Lease", operators.get("spillway-operator").await);

    let ingest = as_the_pods_of(space, &format!("{NAME}-ingest")).await;
    assert_eq!(rights(space, &ingest).await, []);
    may_do_nothing_with::<Lease>(space, &ingest, &lease).await;
    for who in [&syncer, &ingest] {
        may_do_nothing_with::<Secret>(space, who, "bucket").await;
        may_do_nothing_with::<ConfigMap>(space, who, "kube-root-ca.crt").await;
        may_do_nothing_with::<Pod>(space, who, "any").await;
        may_do_nothing_with::<LogPipeline>(space, who, NAME).await;
    }
}

/// A pod as the API server has it, after everything that admission changes.
fn is_restricted(pod: &Pod, has_token: bool) {
    let name = pod.name_any();
    let spec = pod.spec.as_ref().expect("a spec");
    assert_eq!(spec.automount_service_account_token, Some(has_token), "{name}");
    let tokens =
        spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref()?.sources.clone());
    let tokens = tokens.flatten().filter(|source| source.service_account_token.is_some()).count();
    assert_eq!(tokens, usize::from(has_token), "{name}");
    let host = [spec.host_network, spec.host_pid, spec.host_ipc];
    assert!(host.iter().all(|shared| shared.is_none_or(|shared| !shared)), "{name}");
    assert!(spec.volumes.iter().flatten().all(|volume| volume.host_path.is_none()), "{name}");

    let security = spec.security_context.as_ref().expect("a security context");
    assert_eq!(security.run_as_non_root, Some(true), "{name}");
    assert!(security.run_as_user.is_some_and(|user| user > 0), "{name}");
    let seccomp = security.seccomp_profile.as_ref().map(|profile| profile.type_.as_str());
    assert_eq!(seccomp, Some("RuntimeDefault"), "{name}");
    assert!(spec.init_containers.iter().flatten().next().is_none(), "{name}");
    assert!(spec.ephemeral_containers.iter().flatten().next().is_none(), "{name}");
    for container in &spec.containers {
        let security = container.security_context.as_ref().expect("a security context");
        assert_eq!(security.read_only_root_filesystem, Some(true), "{name}");
        assert_eq!(security.allow_privilege_escalation, Some(false), "{name}");
        assert!(security.privileged.is_none_or(|privileged| !privileged), "{name}");
        let dropped = security.capabilities.as_ref().and_then(|capabilities| capabilities.drop.clone());
        assert_eq!(dropped, Some(vec!["ALL".to_owned()]), "{name}");
        let added = security.capabilities.as_ref().and_then(|capabilities| capabilities.add.clone());
        assert_eq!(added.unwrap_or_default(), Vec::<String>::new(), "{name}");
        assert!(security.run_as_user.is_none_or(|user| user > 0), "{name}");
        // No Secret comes as an environment variable, where anybody's crash report would find it.
        assert!(container.env_from.is_none(), "{name}");
        let is_secret = |source: &k8s_openapi::api::core::v1::EnvVarSource| source.secret_key_ref.is_some();
        assert!(
            !container.env.iter().flatten().any(|env| env.value_from.as_ref().is_some_and(is_secret)),
            "{name}"
        );
    }
}
