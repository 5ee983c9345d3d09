//! What NetworkPolicies let through, by the addresses of pods: a pure function of the objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Selector, SelectorExt as _};

type Labels = BTreeMap<String, String>;

/// A pod that is not named here is not isolated; one that is gets and sends only what is listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// Every pod: none can be cut off from itself.
    pub(super) pods: BTreeSet<Ipv4Addr>,
    pub(super) ingress: BTreeMap<Ipv4Addr, BTreeSet<Allow>>,
    pub(super) egress: BTreeMap<Ipv4Addr, BTreeSet<Allow>>,
}

/// Traffic from or to a peer, to these ports; no ports: anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Allow {
    pub(super) peer: Peer,
    pub(super) ports: Option<BTreeSet<Ports>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    Anyone,
    Pods(BTreeSet<Ipv4Addr>),
    Block { network: Ipv4Net, except: Vec<Ipv4Net> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports {
    pub(super) protocol: Protocol,
    pub(super) first: u16,
    pub(super) last: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Unnamed: TCP.
    fn of(name: Option<&str>) -> Self {
        match name {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }
}

impl Peer {
    fn includes(&self, address: Ipv4Addr) -> bool {
        match self {
            Self::Anyone => true,
            Self::Pods(pods) => pods.contains(&address),
            Self::Block { network, except } => {
                network.contains(&address) && !except.iter().any(|hole| hole.contains(&address))
            }
        }
    }
}

/// A pod as policies see it.
struct Endpoint {
    address: Ipv4Addr,
    namespace: String,
    namespace_labels: Labels,
    labels: Labels,
    /// Container ports by name.
    ports: BTreeMap<String, Ports>,
}

/// # Semantics
/// Those of `networking.k8s.io/v1`: a pod is isolated in a direction as soon as one policy of that type selects it, and
/// then gets the union of what its policies allow.
pub(super) fn compile(
    pods: &[Arc<Pod>],
    namespaces: &[Arc<Namespace>],
    policies: &[Arc<NetworkPolicy>],
) -> Rules {
    let endpoints: Vec<_> = pods.iter().filter_map(|pod| endpoint(pod, namespaces)).collect();
    let mut rules = Rules { pods: endpoints.iter().map(|pod| pod.address).collect(), ..Rules::default() };
    for policy in policies {
        let (Some(namespace), Some(spec)) = (&policy.metadata.namespace, &policy.spec) else { continue };
        let (is_ingress, is_egress) = directions(spec);
        let selected = spec.pod_selector.clone().unwrap_or_default();
        for pod in
            endpoints.iter().filter(|pod| pod.namespace == *namespace && selects(&selected, &pod.labels))
        {
            if is_ingress {
                let allowed = rules.ingress.entry(pod.address).or_default();
                for rule in spec.ingress.iter().flatten() {
                    let peers = peers(rule.from.as_deref(), namespace, &endpoints);
                    allowed.extend(ingress(&peers, rule.ports.as_deref(), pod));
                }
            }
            if is_egress {
                let allowed = rules.egress.entry(pod.address).or_default();
                for rule in spec.egress.iter().flatten() {
                    let peers = peers(rule.to.as_deref(), namespace, &endpoints);
                    allowed.extend(egress(&peers, rule.ports.as_deref(), &endpoints));
                }
            }
        }
    }
    rules
}

/// `None` for a pod that has no address of its own: not yet, not any more, or its node's.
fn endpoint(pod: &Pod, namespaces: &[Arc<Namespace>]) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    // The address of one that has ended may be another's by now.
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return None;
    }
    let namespace = pod.metadata.namespace.clone()?;
    let found = namespaces.iter().find(|one| one.metadata.name.as_ref() == Some(&namespace));
    let containers =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        let protocol = Protocol::of(port.protocol.as_deref());
        Some((port.name.clone()?, Ports { protocol, first: number, last: number }))
    });
    Some(Endpoint {
        address: status.pod_ip.as_ref()?.parse().ok()?,
        namespace_labels: found.and_then(|one| one.metadata.labels.clone()).unwrap_or_default(),
        namespace,
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ports: ports.collect(),
    })
}

/// Whether it is about ingress, and about egress.
fn directions(spec: &NetworkPolicySpec) -> (bool, bool) {
    match spec.policy_types.as_deref() {
        None | Some([]) => (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
        Some(types) => {
            let has = |wanted: &str| types.iter().any(|one| one == wanted);
            (has("Ingress"), has("Egress"))
        }
    }
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    // What the API server would have refused selects nothing.
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

/// No peers said: everyone.
fn peers(peers: Option<&[NetworkPolicyPeer]>, namespace: &str, endpoints: &[Endpoint]) -> Vec<Peer> {
    let Some(peers) = peers.filter(|peers| !peers.is_empty()) else { return vec![Peer::Anyone] };
    peers.iter().filter_map(|one| peer(one, namespace, endpoints)).collect()
}

fn peer(peer: &NetworkPolicyPeer, namespace: &str, endpoints: &[Endpoint]) -> Option<Peer> {
    if let Some(IPBlock { cidr, except }) = &peer.ip_block {
        let network = cidr.parse::<Ipv4Net>().ok()?.trunc();
        let except = except.iter().flatten().filter_map(|hole| Some(hole.parse::<Ipv4Net>().ok()?.trunc()));
        return Some(Peer::Block { network, except: except.collect() });
    }
    let is_meant = |pod: &&Endpoint| {
        let of_namespace = match &peer.namespace_selector {
            Some(selector) => selects(selector, &pod.namespace_labels),
            None => pod.namespace == namespace,
        };
        of_namespace && peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
    };
    let pods: BTreeSet<_> = endpoints.iter().filter(is_meant).map(|pod| pod.address).collect();
    (!pods.is_empty()).then_some(Peer::Pods(pods))
}

/// A name is that of a port of the pod that is protected.
fn ingress(peers: &[Peer], ports: Option<&[NetworkPolicyPort]>, pod: &Endpoint) -> Vec<Allow> {
    let ports = match numbers_and_names(ports) {
        None => None,
        Some((mut numbers, names)) => {
            numbers.extend(names.iter().filter_map(|name| named(pod, name)));
            Some(numbers)
        }
    };
    each(peers, ports)
}

/// A name is that of a port of the pod that is asked, and so is another number with each.
fn egress(peers: &[Peer], ports: Option<&[NetworkPolicyPort]>, endpoints: &[Endpoint]) -> Vec<Allow> {
    let Some((numbers, names)) = numbers_and_names(ports) else { return each(peers, None) };
    let mut allowed = each(peers, Some(numbers));
    for pod in endpoints.iter().filter(|pod| peers.iter().any(|peer| peer.includes(pod.address))) {
        let ports = names.iter().filter_map(|name| named(pod, name)).collect();
        allowed.extend(each(&[Peer::Pods(BTreeSet::from([pod.address]))], Some(ports)));
    }
    allowed
}

fn each(peers: &[Peer], ports: Option<BTreeSet<Ports>>) -> Vec<Allow> {
    if ports.as_ref().is_some_and(BTreeSet::is_empty) {
        return Vec::new();
    }
    peers.iter().map(|peer| Allow { peer: peer.clone(), ports: ports.clone() }).collect()
}

/// A port by its name, which each pod gives another number.
type Name<'a> = (&'a str, Protocol);

fn named(pod: &Endpoint, (name, protocol): &Name<'_>) -> Option<Ports> {
    pod.ports.get(*name).copied().filter(|port| port.protocol == *protocol)
}

/// `None`: all ports.
fn numbers_and_names(ports: Option<&[NetworkPolicyPort]>) -> Option<(BTreeSet<Ports>, Vec<Name<'_>>)> {
    let (mut numbers, mut names) = (BTreeSet::new(), Vec::new());
    for port in ports.filter(|ports| !ports.is_empty())? {
        let protocol = Protocol::of(port.protocol.as_deref());
        match &port.port {
            None => drop(numbers.insert(Ports { protocol, first: 0, last: u16::MAX })),
            Some(IntOrString::String(name)) => names.push((name.as_str(), protocol)),
            Some(IntOrString::Int(first)) => {
                let last = port.end_port.unwrap_or(*first);
                if let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(last)) {
                    numbers.insert(Ports { protocol, first, last });
                }
            }
        }
    }
    Some((numbers, names))
}
