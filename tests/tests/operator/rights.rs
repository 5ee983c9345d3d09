//! What the operator and the syncer may do, and what the API server refuses them.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use spillway_tests::kubernetes::helm;
use spillway_tests::kubernetes::operator::{Operator, SERVICE_ACCOUNT, token};
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

use crate::claim::{Claim, Kept};

/// Who may do something.
#[derive(Clone, Copy)]
enum Who {
    /// The operator that watches one namespace, as the chart makes it.
    Operator,
    /// The one that watches all.
    OperatorOfAll,
    Syncer,
    Ingest,
}

/// Where.
#[derive(Clone, Copy, PartialEq)]
enum In {
    Own,
    Another,
    TheCluster,
}

struct Act {
    who: Who,
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    name: &'static str,
    place: In,
}

fn act(who: Who, verb: &'static str, what: &'static str, place: In) -> Act {
    // group/resource[/subresource][=name]; an empty group begins with a slash.
    let (what, name) = what.split_once('=').unwrap_or((what, ""));
    let (group, resource) = what.split_once('/').expect("group/resource");
    Act { who, verb, group, resource, name, place }
}

/// Every act that must be refused.
fn denied() -> Vec<Act> {
    use In::{Another, Own, TheCluster};
    use Who::{Ingest, Operator, OperatorOfAll, Syncer};
    let mut acts = vec![
        act(Operator, "create", "/pods/exec", Own),
        act(Operator, "get", "/pods/log", Own),
        act(Operator, "create", "/pods", Own),
        act(Operator, "delete", "/pods", Own),
        act(Operator, "create", "/pods/eviction", Own),
        act(Operator, "create", "/pods/portforward", Own),
        act(Operator, "create", "/serviceaccounts/token", Own),
        act(Operator, "impersonate", "/serviceaccounts", Own),
        act(Operator, "escalate", "rbac.authorization.k8s.io/roles", Own),
        act(Operator, "bind", "rbac.authorization.k8s.io/roles", Own),
        act(Operator, "create", "spillway.dev/logpipelines", Own),
        act(Operator, "delete", "spillway.dev/logpipelines", Own),
        act(Operator, "update", "spillway.dev/logpipelines", Own),
        act(Operator, "create", "apps/statefulsets", Own),
        act(Operator, "create", "apps/daemonsets", Own),
        act(Operator, "create", "batch/jobs", Own),
        act(Operator, "get", "/persistentvolumeclaims", Own),
        act(Operator, "delete", "/namespaces", TheCluster),
        act(Operator, "list", "/namespaces", TheCluster),
        act(Operator, "list", "/nodes", TheCluster),
        act(Operator, "list", "/secrets", TheCluster),
        act(Operator, "get", "/secrets", Another),
        act(Operator, "list", "/secrets", Another),
        act(Operator, "create", "/secrets", Another),
        act(Operator, "list", "spillway.dev/logpipelines", Another),
        act(Operator, "patch", "apps/deployments", Another),
        act(Operator, "update", "coordination.k8s.io/leases=spillway-operator", Another),
        act(Operator, "create", "rbac.authorization.k8s.io/clusterroles", TheCluster),
        act(Operator, "create", "rbac.authorization.k8s.io/clusterrolebindings", TheCluster),
        act(Operator, "patch", "apiextensions.k8s.io/customresourcedefinitions", TheCluster),
        act(Operator, "create", "admissionregistration.k8s.io/validatingwebhookconfigurations", TheCluster),
        act(OperatorOfAll, "create", "/pods/exec", Another),
        act(OperatorOfAll, "get", "/pods/log", Another),
        act(OperatorOfAll, "create", "/pods", Another),
        act(OperatorOfAll, "delete", "/pods", Another),
        act(OperatorOfAll, "create", "/serviceaccounts/token", Another),
        act(OperatorOfAll, "impersonate", "/serviceaccounts", Another),
        act(OperatorOfAll, "create", "spillway.dev/logpipelines", Another),
        act(OperatorOfAll, "delete", "spillway.dev/logpipelines", Another),
        act(OperatorOfAll, "update", "spillway.dev/logpipelines", Another),
        act(OperatorOfAll, "delete", "apps/deployments", Another),
        act(OperatorOfAll, "delete", "coordination.k8s.io/leases", Another),
        act(OperatorOfAll, "escalate", "rbac.authorization.k8s.io/clusterroles", TheCluster),
        act(OperatorOfAll, "bind", "rbac.authorization.k8s.io/clusterroles", TheCluster),
        act(OperatorOfAll, "create", "rbac.authorization.k8s.io/clusterroles", TheCluster),
        act(OperatorOfAll, "create", "rbac.authorization.k8s.io/clusterrolebindings", TheCluster),
        act(OperatorOfAll, "patch", "apiextensions.k8s.io/customresourcedefinitions", TheCluster),
        act(OperatorOfAll, "list", "/namespaces", TheCluster),
        act(OperatorOfAll, "delete", "/namespaces", TheCluster),
        act(OperatorOfAll, "list", "/nodes", TheCluster),
        act(Syncer, "get", "coordination.k8s.io/leases=spillway-operator", Own),
        act(Syncer, "update", "coordination.k8s.io/leases=another-syncer", Own),
        act(Syncer, "update", "coordination.k8s.io/leases=logs-syncer", Another),
        act(Syncer, "get", "/secrets=bucket", Own),
        act(Syncer, "get", "/configmaps", Own),
        act(Syncer, "list", "/pods", Own),
        act(Syncer, "get", "spillway.dev/logpipelines", Own),
        act(Ingest, "get", "coordination.k8s.io/leases=logs-syncer", Own),
        act(Ingest, "get", "/secrets", Own),
        act(Ingest, "list", "/pods", Own),
    ];
    for verb in ["create", "delete", "deletecollection", "list", "patch", "watch"] {
        acts.push(act(Syncer, verb, "coordination.k8s.io/leases=logs-syncer", Own));
    }
    acts
}

pub(crate) fn claims() -> Vec<Claim> {
    let mut claims = functions::claims();
    for act in denied() {
        let who = match act.who {
            Who::Operator => "the_operator",
            Who::OperatorOfAll => "the_operator_of_all",
            Who::Syncer => "the_syncer",
            Who::Ingest => "ingest",
        };
        let place = match act.place {
            In::Own => "",
            In::Another => "_of_another_namespace",
            In::TheCluster => "_of_the_cluster",
        };
        let what = format!("{}_{}", act.resource, act.name).replace(['/', '-'], "_");
        let name = format!("rights::{who}_may_not_{}_{}{place}", act.verb, what.trim_end_matches('_'));
        claims.push(Claim::new(name, |space| Box::pin(is_denied(space, act))));
    }
    claims
}

/// What the API server says to a request of `user`.
async fn allows(client: &Client, user: &str, act: &Act, namespace: Option<&str>) -> bool {
    let (resource, subresource) = act.resource.split_once('/').unwrap_or((act.resource, ""));
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let attributes = ResourceAttributes {
        group: text(act.group),
        resource: text(resource),
        subresource: text(subresource),
        name: text(act.name),
        namespace: namespace.map(str::to_owned),
        verb: text(act.verb),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(user.to_owned()),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let reviewed = Api::all(client.clone()).create(&PostParams::default(), &review).await;
    reviewed.expect("the server reviews").status.expect("an answer").allowed
}

async fn is_denied(space: &mut Space, denied: Act) -> Box<dyn Kept> {
    let (home, account) = match denied.who {
        Who::OperatorOfAll => (&space.world.whole_cluster().await.home, SERVICE_ACCOUNT),
        Who::Operator => (&*space, SERVICE_ACCOUNT),
        Who::Syncer => (&*space, "logs-syncer"),
        Who::Ingest => (&*space, "logs-ingest"),
    };
    let user = format!("system:serviceaccount:{}:{account}", home.namespace);
    match denied.who {
        Who::OperatorOfAll => {
            let read = act(denied.who, "list", "/secrets", In::TheCluster);
            come_to_count(home, &user, &read, None).await;
        }
        // The roles of the pipeline are the operator's to make, so they are made as a pipeline's.
        _ => functions::syncer_role(home).await,
    }
    let place = match denied.place {
        In::Own => Some(home.namespace.clone()),
        In::Another => Some("kube-system".to_owned()),
        In::TheCluster => None,
    };
    let allowed = allows(&home.client, &user, &denied, place.as_deref()).await;
    assert!(!allowed, "{user} may {} {}/{} {}", denied.verb, denied.group, denied.resource, denied.name);
    Box::new(())
}

/// Waits until something is allowed. Else every refusal would only say that the roles have not arrived yet.
async fn come_to_count(space: &Space, user: &str, act: &Act, namespace: Option<&str>) {
    until("the roles to count", PATIENCE, async || {
        allows(&space.client, user, act, namespace).await.then_some(())
    })
    .await;
}

mod functions {
    use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
    use kube::ResourceExt;
    use spillway_tests::kubernetes::pipelines;

    use super::*;
    use crate::claim::claims;

    claims![
        the_syncers_role_is_its_lease_and_nothing_else,
        the_syncers_token_gets_and_updates_its_lease_and_nothing_else,
        the_operators_token_reads_no_other_namespace,
        an_operator_of_one_namespace_leaves_pipelines_of_others_alone,
        the_chart_grants_no_wildcard,
    ];

    /// The Role as the operator makes it, without waiting for an operator. That it is this one is a claim of its own.
    pub(super) async fn syncer_role(space: &Space) {
        let role = serde_json::json!({
            "metadata": {"name": "logs-syncer"},
            "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["logs-syncer"], "verbs": ["get", "update"]}],
        });
        let role: Role = serde_json::from_value(role).unwrap();
        space.create(&role).await;
        let binding = serde_json::json!({
            "metadata": {"name": "logs-syncer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "logs-syncer"},
            "subjects": [{"kind": "ServiceAccount", "name": "logs-syncer"}],
        });
        let mut binding: RoleBinding = serde_json::from_value(binding).unwrap();
        for subject in binding.subjects.iter_mut().flatten() {
            subject.namespace = Some(space.namespace.clone());
        }
        space.create(&binding).await;
        let user = format!("system:serviceaccount:{}:logs-syncer", space.namespace);
        let own = act(Who::Syncer, "update", "coordination.k8s.io/leases=logs-syncer", In::Own);
        come_to_count(space, &user, &own, Some(&space.namespace)).await;
    }

    async fn the_syncers_role_is_its_lease_and_nothing_else(space: &mut Space) -> Operator {
        let operator = space.ready_pipeline().await;
        let role: Role = space.get("logs-syncer").await;
        let strings = |list: &[&str]| Some(list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        let mut rules = role.rules.unwrap_or_default();
        for rule in &mut rules {
            rule.verbs.sort();
        }
        let only = PolicyRule {
            api_groups: strings(&["coordination.k8s.io"]),
            resources: strings(&["leases"]),
            resource_names: strings(&["logs-syncer"]),
            verbs: vec!["get".into(), "update".into()],
            ..PolicyRule::default()
        };
        assert_eq!(rules, [only]);
        operator
    }

    async fn the_syncers_token_gets_and_updates_its_lease_and_nothing_else(space: &mut Space) -> Operator {
        let operator = space.ready_pipeline().await;
        let token = token(space, "logs-syncer", None).await;
        let syncer = space.world.control_plane.client(&token).await;
        let leases: Api<Lease> = Api::namespaced(syncer.clone(), &space.namespace);
        let mut lease = leases.get("logs-syncer").await.expect("its own Lease");
        lease.spec.get_or_insert_default().lease_duration_seconds = Some(20);
        leases.replace("logs-syncer", &PostParams::default(), &lease).await.expect("its own Lease");
        let refused =
            |error: kube::Error| matches!(&error, kube::Error::Api(status) if status.is_forbidden());
        let mut another = lease.clone();
        another.metadata = kube::api::ObjectMeta { name: Some("another".into()), ..Default::default() };
        assert!(refused(leases.create(&PostParams::default(), &another).await.expect_err("refused")));
        assert!(refused(leases.delete("logs-syncer", &Default::default()).await.expect_err("refused")));
        assert!(refused(leases.list(&ListParams::default()).await.expect_err("refused")));
        let secrets: Api<Secret> = Api::namespaced(syncer, &space.namespace);
        assert!(refused(secrets.get("bucket").await.expect_err("refused")));
        operator
    }

    async fn the_operators_token_reads_no_other_namespace(space: &mut Space) {
        let token = token(space, SERVICE_ACCOUNT, None).await;
        let operator = space.world.control_plane.client(&token).await;
        let own: Api<Secret> = Api::namespaced(operator.clone(), &space.namespace);
        until("its rights to count", PATIENCE, async || own.list(&ListParams::default()).await.ok()).await;
        for api in [Api::<Secret>::namespaced(operator.clone(), "kube-system"), Api::all(operator)] {
            let error = api.list(&ListParams::default()).await.expect_err("refused");
            assert!(matches!(&error, kube::Error::Api(status) if status.is_forbidden()), "{error}");
        }
    }

    async fn an_operator_of_one_namespace_leaves_pipelines_of_others_alone(space: &mut Space) -> Operator {
        let other = space.world.space("pipelines-of-others").await;
        other.create(&pipelines::pipeline(&other)).await;
        let operator = space.ready_pipeline().await;
        let left: spillway_crds::LogPipeline = other.get(pipelines::NAME).await;
        assert!(left.status.is_none() && left.finalizers().is_empty());
        operator
    }

    /// That they are enough is what every other test shows.
    async fn the_chart_grants_no_wildcard(space: &mut Space) {
        for settings in [&[][..], &["watchNamespaces={a}"][..]] {
            for object in helm::objects(&helm::template(&space.namespace, settings, &["rbac.yaml"])) {
                let rules = object
                    .data
                    .get("rules")
                    .and_then(serde_json::Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                for rule in rules {
                    for field in ["apiGroups", "resources", "verbs"] {
                        let values = rule[field].as_array().expect("a list");
                        assert!(!values.iter().any(|value| value == "*"), "{}: {rule}", object.name_any());
                    }
                }
            }
        }
    }
}
