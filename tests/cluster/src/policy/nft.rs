//! The rules in the kernel's language.
//!
//! They stand where routed packets pass, after kube-proxy has put a pod's address in the place of a Service's, and
//! where packets to the node itself arrive. What the node sends by itself, as kubelet's probes, passes neither.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::rules::{Allow, Peer, Ports, Protocol, Rules};

/// Puts the rules in the place of whatever was there, in one transaction.
pub(super) fn script(rules: &Rules) -> String {
    let (out, out_of) = chains("egress", "daddr", &rules.egress);
    let (into, into_of) = chains("ingress", "saddr", &rules.ingress);
    let mut check = vec!["ct state established,related accept".to_owned()];
    if !rules.pods.is_empty() {
        let itself = list(rules.pods.iter().map(|pod| format!("{pod} . {pod}")));
        check.push(format!("ip saddr . ip daddr {{ {itself} }} accept"));
    }
    check.extend(map("saddr", &out_of));
    check.extend(map("daddr", &into_of));

    // It can't be deleted unless it is there, and can be added if it is.
    let mut script = String::from("add table ip network-policy\ndelete table ip network-policy\n");
    script += "table ip network-policy {\n";
    // A chain is known before another goes to it.
    for (name, lines) in out.iter().chain(&into).chain([&("check".to_owned(), check)]) {
        chain(&mut script, name, lines);
    }
    for hook in ["forward", "input"] {
        let lines =
            [format!("type filter hook {hook} priority filter; policy accept;"), "jump check".to_owned()];
        chain(&mut script, hook, &lines);
    }
    script + "}\n"
}

type Chains = Vec<(String, Vec<String>)>;

/// One chain for all pods with the same rules, and the chain of each pod.
fn chains(
    direction: &str,
    field: &str,
    pods: &BTreeMap<Ipv4Addr, BTreeSet<Allow>>,
) -> (Chains, BTreeMap<Ipv4Addr, String>) {
    let mut alike: BTreeMap<&BTreeSet<Allow>, Vec<Ipv4Addr>> = BTreeMap::new();
    for (pod, allowed) in pods {
        alike.entry(allowed).or_default().push(*pod);
    }
    let (mut chains, mut of) = (Vec::new(), BTreeMap::new());
    for (number, (allowed, pods)) in alike.into_iter().enumerate() {
        let name = format!("{direction}-{number}");
        let mut lines: Vec<_> = allowed.iter().flat_map(|allow| returns(field, allow)).collect();
        lines.push("drop".to_owned());
        of.extend(pods.into_iter().map(|pod| (pod, name.clone())));
        chains.push((name, lines));
    }
    (chains, of)
}

fn returns(field: &str, allow: &Allow) -> Vec<String> {
    let peer = match &allow.peer {
        Peer::Anyone => String::new(),
        Peer::Pods(pods) => format!("ip {field} {{ {} }} ", list(pods)),
        Peer::Block { network, except } => {
            let holes: String = except.iter().map(|hole| format!("ip {field} != {hole} ")).collect();
            format!("ip {field} {network} {holes}")
        }
    };
    match &allow.ports {
        None => vec![format!("{peer}return")],
        Some(ports) => {
            let by_protocol = merge(ports);
            let lines = by_protocol.iter().map(|(protocol, ranges)| {
                let ranges = list(ranges.iter().map(|(first, last)| format!("{first}-{last}")));
                format!("{peer}{} dport {{ {ranges} }} return", protocol_name(*protocol))
            });
            lines.collect()
        }
    }
}

/// Ranges that overlap become one: the kernel refuses both.
fn merge(ports: &BTreeSet<Ports>) -> BTreeMap<Protocol, Vec<(u16, u16)>> {
    let mut merged: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
    for Ports { protocol, first, last } in ports {
        let ranges = merged.entry(*protocol).or_default();
        match ranges.last_mut() {
            Some((_, end)) if first <= end => *end = (*end).max(*last),
            _ => ranges.push((*first, *last)),
        }
    }
    merged
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// An empty map is an error.
fn map(field: &str, chains: &BTreeMap<Ipv4Addr, String>) -> Option<String> {
    let elements = list(chains.iter().map(|(pod, chain)| format!("{pod} : jump {chain}")));
    (!elements.is_empty()).then(|| format!("ip {field} vmap {{ {elements} }}"))
}

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn chain(script: &mut String, name: &str, lines: &[String]) {
    writeln!(script, "\tchain {name} {{\n\t\t{}\n\t}}", lines.join("\n\t\t")).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_one_transaction() {
        let [web, client] = [Ipv4Addr::new(10, 244, 0, 2), Ipv4Addr::new(10, 244, 128, 2)];
        let tcp = |first, last| Ports { protocol: Protocol::Tcp, first, last };
        let block = Peer::Block {
            network: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap()],
        };
        let dns = Ports { protocol: Protocol::Udp, first: 53, last: 53 };
        let rules = Rules {
            pods: [web, client].into(),
            ingress: [(
                web,
                [
                    Allow {
                        peer: Peer::Pods([client].into()),
                        ports: Some([tcp(80, 80), tcp(90, 99)].into()),
                    },
                    Allow { peer: block, ports: None },
                ]
                .into(),
            )]
            .into(),
            egress: [
                (web, [].into()),
                (
                    client,
                    [Allow { peer: Peer::Anyone, ports: Some([tcp(1, 9), tcp(5, 12), dns].into()) }].into(),
                ),
            ]
            .into(),
        };
        assert_eq!(script(&rules), include_str!("nft.golden"));
    }

    #[test]
    fn nothing_to_enforce_is_nothing_dropped() {
        let script = script(&Rules::default());
        assert!(!script.contains("drop") && !script.contains("vmap"), "{script}");
    }
}
