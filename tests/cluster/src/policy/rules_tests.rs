//! The meaning of policies, as tables: who then reaches whom.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::rules::{Allow, Peer, Protocol, Rules, compile};

/// An address that is no pod's.
const OUTSIDE: &str = "10.250.0.9";

fn address(name: &str) -> Ipv4Addr {
    let text = match name {
        "web" => "10.244.0.1",
        "db" => "10.244.0.2",
        "client" => "10.244.128.1",
        "stranger" => "10.244.128.2",
        "outside" => OUTSIDE,
        other => panic!("no {other} here"),
    };
    text.parse().unwrap()
}

/// web and db in the namespace `a`, client and stranger in `b`.
fn pods() -> Vec<Value> {
    [
        ("a", "web", "http", 8080),
        ("a", "db", "sql", 5432),
        ("b", "client", "http", 9090),
        ("b", "stranger", "x", 1),
    ]
    .map(|(namespace, name, port, number)| {
        let port = json!({"name": port, "containerPort": number, "protocol": "TCP"});
        json!({
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {"containers": [{"name": "main", "ports": [port]}]},
            "status": {"phase": "Running", "podIP": address(name).to_string()},
        })
    })
    .to_vec()
}

/// Rules of these pods and policies, each a namespace and a spec.
fn rules(pods: &[Value], policies: &[(&str, Value)]) -> Rules {
    fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }
    let namespaces =
        ["a", "b"].map(|name| typed(json!({"metadata": {"name": name, "labels": {"team": name}}}))).to_vec();
    let policies: Vec<_> = policies
        .iter()
        .map(|(namespace, spec)| {
            typed(json!({"metadata": {"name": "p", "namespace": namespace}, "spec": spec}))
        })
        .collect();
    compile(&pods.iter().cloned().map(typed).collect::<Vec<_>>(), &namespaces, &policies)
}

/// What the kernel makes of the rules.
fn passes(rules: &Rules, from: &str, to: &str, protocol: Protocol, port: u16) -> bool {
    let (from, to) = (address(from), address(to));
    let through = |allowed: Option<&std::collections::BTreeSet<Allow>>, peer: Ipv4Addr| {
        allowed.is_none_or(|allowed| {
            allowed.iter().any(|allow| {
                let of_peer = match &allow.peer {
                    Peer::Anyone => true,
                    Peer::Pods(pods) => pods.contains(&peer),
                    Peer::Block { network, except } => {
                        network.contains(&peer) && !except.iter().any(|hole| hole.contains(&peer))
                    }
                };
                of_peer
                    && allow.ports.as_ref().is_none_or(|ports| {
                        ports
                            .iter()
                            .any(|one| one.protocol == protocol && (one.first..=one.last).contains(&port))
                    })
            })
        })
    };
    (from == to && rules.pods.contains(&from))
        || through(rules.egress.get(&from), to) && through(rules.ingress.get(&to), from)
}

#[track_caller]
fn assert_tcp(policies: &[(&str, Value)], table: &[(&str, &str, u16, bool)]) {
    let rules = rules(&pods(), policies);
    for (from, to, port, expected) in table {
        let passed = passes(&rules, from, to, Protocol::Tcp, *port);
        assert_eq!(passed, *expected, "{from} to {to}:{port} under {policies:?}");
    }
}

fn web() -> Value {
    json!({"matchLabels": {"app": "web"}})
}

#[test]
fn without_a_policy_everybody_reaches_everybody() {
    assert_tcp(
        &[],
        &[("client", "web", 80, true), ("outside", "web", 80, true), ("web", "outside", 80, true)],
    );
}

#[test]
fn a_policy_without_rules_isolates_what_it_selects_and_nothing_else() {
    assert_tcp(
        &[("a", json!({"podSelector": web(), "policyTypes": ["Ingress"]}))],
        &[
            ("client", "web", 80, false),
            ("outside", "web", 80, false),
            ("web", "web", 80, true),
            ("web", "client", 80, true),
            ("client", "db", 80, true),
        ],
    );
    assert_tcp(
        &[("a", json!({"podSelector": {}, "policyTypes": ["Egress"]}))],
        &[("web", "client", 80, false), ("db", "outside", 80, false), ("client", "web", 80, true)],
    );
}

#[test]
fn the_types_follow_from_the_rules_when_they_are_not_said() {
    let out = json!([{"to": [{"podSelector": {}}]}]);
    assert_tcp(
        &[("a", json!({"podSelector": web(), "egress": out}))],
        &[("client", "web", 80, false), ("web", "db", 80, true), ("web", "client", 80, false)],
    );
    assert_tcp(
        &[("a", json!({"podSelector": web(), "egress": []}))],
        &[("client", "web", 80, false), ("web", "client", 80, true)],
    );
}

#[test]
fn a_rule_without_peers_or_ports_lets_everything_through() {
    assert_tcp(
        &[("a", json!({"podSelector": web(), "policyTypes": ["Ingress"], "ingress": [{}]}))],
        &[("client", "web", 80, true), ("outside", "web", 65535, true)],
    );
    assert_tcp(
        &[(
            "a",
            json!({"podSelector": web(), "policyTypes": ["Ingress"], "ingress": [{"from": [], "ports": []}]}),
        )],
        &[("client", "web", 80, true), ("outside", "web", 65535, true)],
    );
}

#[test]
fn peers_are_chosen_by_pod_by_namespace_and_by_both() {
    let from = |peers: Value| [("a", json!({"podSelector": web(), "ingress": [{"from": peers}]}))];
    let pod = |name: &str| json!({"matchLabels": {"app": name}});
    let team = json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["b"]}]});
    // A selector of pods alone means pods of the policy's own namespace.
    assert_tcp(
        &from(json!([{"podSelector": {}}])),
        &[("db", "web", 80, true), ("client", "web", 80, false), ("outside", "web", 80, false)],
    );
    assert_tcp(
        &from(json!([{"podSelector": pod("client")}])),
        &[("client", "web", 80, false), ("db", "web", 80, false)],
    );
    assert_tcp(
        &from(json!([{"namespaceSelector": team}])),
        &[("client", "web", 80, true), ("stranger", "web", 80, true), ("db", "web", 80, false)],
    );
    assert_tcp(
        &from(json!([{"namespaceSelector": team, "podSelector": pod("client")}])),
        &[("client", "web", 80, true), ("stranger", "web", 80, false), ("db", "web", 80, false)],
    );
    // Two items are one or the other.
    assert_tcp(
        &from(json!([{"namespaceSelector": team}, {"podSelector": pod("db")}])),
        &[("client", "web", 80, true), ("db", "web", 80, true), ("outside", "web", 80, false)],
    );
    // Every namespace is still no one from outside.
    assert_tcp(
        &from(json!([{"namespaceSelector": {}}])),
        &[("client", "web", 80, true), ("db", "web", 80, true), ("outside", "web", 80, false)],
    );
}

#[test]
fn a_block_is_of_addresses_whose_ever_they_are_but_for_its_exceptions() {
    let from =
        |block: Value| [("a", json!({"podSelector": web(), "ingress": [{"from": [{"ipBlock": block}]}]}))];
    assert_tcp(
        &from(json!({"cidr": "10.250.0.0/24"})),
        &[("outside", "web", 80, true), ("client", "web", 80, false)],
    );
    assert_tcp(
        &from(json!({"cidr": "0.0.0.0/0", "except": ["10.244.128.0/31", "10.250.0.0/16"]})),
        &[
            ("client", "web", 80, false),
            ("outside", "web", 80, false),
            ("stranger", "web", 80, true),
            ("db", "web", 80, true),
        ],
    );
}

#[test]
fn ports_are_numbers_ranges_and_names_of_the_pod_that_is_asked() {
    let policy = |ports: Value| [("a", json!({"podSelector": {}, "ingress": [{"ports": ports}]}))];
    assert_tcp(
        &policy(json!([{"port": 80}, {"port": 443, "endPort": 445}])),
        &[
            ("client", "web", 80, true),
            ("client", "web", 81, false),
            ("client", "web", 442, false),
            ("client", "web", 443, true),
            ("client", "web", 445, true),
            ("client", "web", 446, false),
        ],
    );
    // db has no port of that name.
    assert_tcp(
        &policy(json!([{"port": "http"}])),
        &[("client", "web", 8080, true), ("client", "web", 9090, false), ("client", "db", 8080, false)],
    );
    let out =
        json!({"podSelector": web(), "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]});
    assert_tcp(
        &[("a", out)],
        &[("web", "client", 9090, true), ("web", "client", 8080, false), ("web", "outside", 9090, false)],
    );
    let out = json!({
        "podSelector": web(),
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.244.0.0/17"}}], "ports": [{"port": "sql"}, {"port": "http"}]}],
    });
    assert_tcp(
        &[("a", out)],
        &[("web", "db", 5432, true), ("web", "db", 9090, false), ("web", "client", 9090, false)],
    );
}

#[test]
fn a_port_is_of_one_protocol_and_a_protocol_alone_is_all_its_ports() {
    let policy = |ports: Value| [("a", json!({"podSelector": web(), "ingress": [{"ports": ports}]}))];
    for (ports, protocol, expected) in [
        (json!([{"port": 53}]), Protocol::Tcp, true),
        (json!([{"port": 53}]), Protocol::Udp, false),
        (json!([{"port": 53, "protocol": "UDP"}]), Protocol::Udp, true),
        (json!([{"port": 53, "protocol": "UDP"}]), Protocol::Tcp, false),
        (json!([{"protocol": "UDP"}]), Protocol::Udp, true),
        (json!([{"protocol": "UDP"}]), Protocol::Sctp, false),
    ] {
        let rules = rules(&pods(), &policy(ports.clone()));
        assert_eq!(passes(&rules, "client", "web", protocol, 53), expected, "{ports} {protocol:?}");
    }
}

#[test]
fn a_pod_gets_what_any_of_its_policies_allows_and_both_ends_must_agree() {
    let from = |name: &str| json!([{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": name}}}]}]);
    let two = [
        ("a", json!({"podSelector": web(), "ingress": from("client")})),
        ("a", json!({"podSelector": {}, "ingress": from("db")})),
    ];
    assert_tcp(&two, &[("client", "web", 80, true), ("db", "web", 80, true), ("stranger", "web", 80, false)]);

    let ends = [
        ("a", json!({"podSelector": web(), "ingress": from("client")})),
        ("b", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 80}]}]})),
    ];
    assert_tcp(
        &ends,
        &[("client", "web", 80, true), ("client", "web", 81, false), ("stranger", "web", 80, false)],
    );
}

#[test]
fn the_address_of_a_pod_that_has_ended_or_is_its_nodes_is_not_the_pods() {
    let closed = [("a", json!({"podSelector": {}, "policyTypes": ["Ingress"]}))];
    let mut ended = pods();
    ended[0]["status"]["phase"] = json!("Succeeded");
    assert!(passes(&rules(&ended, &closed), "client", "web", Protocol::Tcp, 80));
    let mut of_node = pods();
    of_node[0]["spec"]["hostNetwork"] = json!(true);
    assert!(passes(&rules(&of_node, &closed), "client", "web", Protocol::Tcp, 80));
    // Another pod has the address now, and another's label.
    let mut again = ended;
    let mut successor = pods()[1].clone();
    successor["status"]["podIP"] = json!(address("web").to_string());
    again.push(successor);
    assert!(!passes(&rules(&again, &closed), "client", "web", Protocol::Tcp, 80));
}
