//! Servers that go with the namespace of the pipeline: nobody has to wait for them to come back.

use http::Uri;
use k8s_openapi::api::core::v1::Service;
use kube::Api;

use super::place::{Known, namespace_is_going};
use crate::{ctx::Ctx, errors::call, target::Target};

/// The name of a server that was in the pipeline's namespace and went with it, if there is one.
pub(super) async fn gone_with_its_namespace(ctx: &Ctx, target: &Target, known: &Known) -> Option<String> {
    let endpoint = known.valid.storage.s3.as_ref().and_then(|s3| s3.endpoint.as_deref());
    let addresses = [endpoint, Some(known.plan.schema.settings.url.as_str())];
    let services: Vec<_> =
        addresses.into_iter().flatten().filter_map(|address| service(address, &target.namespace)).collect();
    // In this order: nothing can be created any more once it is going.
    if services.is_empty() || !namespace_is_going(ctx, target).await {
        return None;
    }
    let api: Api<Service> = Api::namespaced(ctx.client.clone(), &target.namespace);
    for name in services {
        if call("look for a Service", api.get(&name)).await.is_err_and(|error| error.is_not_found()) {
            return Some(format!("the Service {name}"));
        }
    }
    None
}

/// The Service of this namespace that an address is of, as far as its name tells.
fn service(address: &str, namespace: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    let host = uri.host()?.trim_end_matches('.');
    let mut labels = host.split('.');
    let name =
        labels.next().filter(|name| !name.is_empty() && *name != "localhost" && !name.contains(':'))?;
    let is_here = match (labels.next(), labels.next()) {
        (None, _) => true,
        (Some(other), None | Some("svc")) => other == namespace,
        _ => false,
    };
    is_here.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_of_the_namespace_is_known_by_its_address() {
        for (address, expected) in [
            ("http://minio:9000", Some("minio")),
            ("https://minio.logs:9000/", Some("minio")),
            ("http://minio.logs.svc", Some("minio")),
            ("http://minio.logs.svc.cluster.local.:9000", Some("minio")),
            ("http://minio.storage:9000", None),
            ("http://minio.storage.svc:9000", None),
            ("https://s3.eu-central-1.amazonaws.com", None),
            ("http://minio.logs.example.com", None),
            ("http://10.0.0.1:9000", None),
            ("http://[::1]:9000", None),
            ("http://localhost:9000", None),
        ] {
            assert_eq!(service(address, "logs").as_deref(), expected, "{address}");
        }
    }
}
