//! Keys and certificates: one authority for the API server, one for the aggregation layer.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

use crate::{State, net};

/// Users of the token file: name, group. `admin` and what runs beside the nodes may do everything.
pub const USERS: &[(&str, &str)] = &[
    ("admin", "system:masters"),
    ("system:kube-controller-manager", "system:masters"),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
    ("system:node:node0", "system:nodes"),
    ("system:node:node1", "system:nodes"),
];

/// Writes everything under `keys/` and a kubeconfig per user.
///
/// # Errors
/// When a key can't be made or written.
pub fn write(state: &State) -> Result<()> {
    let authority = authority("spillway-cluster")?;
    state.write("keys/ca.crt", authority.pem())?;

    let names =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", "10.96.0.1"];
    let mut names: Vec<String> = names.map(str::to_owned).to_vec();
    names.push(net::MASTER.to_owned());
    let mut server = CertificateParams::new(names)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    issue(state, "apiserver", server, &authority)?;

    let mut kubelet_client = client("kube-apiserver-kubelet-client");
    kubelet_client.distinguished_name.push(DnType::OrganizationName, "system:masters");
    issue(state, "kubelet-client", kubelet_client, &authority)?;

    let front = self::authority("spillway-cluster-front-proxy")?;
    state.write("keys/front-ca.crt", front.pem())?;
    issue(state, "front", client("front-proxy-client"), &front)?;

    let accounts = KeyPair::generate()?;
    state.write("keys/accounts.key", accounts.serialize_pem())?;
    state.write("keys/accounts.pub", accounts.public_key_pem())?;

    let mut table = String::new();
    for (user, group) in USERS {
        let token = hex::encode(rand::random::<[u8; 16]>());
        let groups = if group.is_empty() { String::new() } else { format!(",\"{group}\"") };
        table += &format!("{token},{user},{user}{groups}\n");
        let name = user.rsplit(':').next().unwrap_or(user);
        state.write(&format!("{name}.kubeconfig"), kubeconfig(state, &token)?)?;
    }
    state.write("keys/tokens.csv", table)?;
    Ok(())
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn client(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn issue(
    state: &State,
    name: &str,
    params: CertificateParams,
    authority: &CertifiedIssuer<'static, KeyPair>,
) -> Result<()> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    state.write(&format!("keys/{name}.crt"), certificate.pem())?;
    state.write(&format!("keys/{name}.key"), key.serialize_pem())?;
    Ok(())
}

/// JSON is YAML.
fn kubeconfig(state: &State, token: &str) -> Result<String> {
    let cluster = serde_json::json!({
        "server": format!("https://{}:6443", net::MASTER),
        "certificate-authority": state.path("keys/ca.crt")?,
    });
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "cluster",
    });
    Ok(config.to_string())
}
