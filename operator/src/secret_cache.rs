//! The Secrets that pipelines name. Watched by metadata only; what is in one is fetched when a pipeline names it,
//! and again only when its resourceVersion has moved.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, runtime::watcher::Event};
use parking_lot::Mutex;
use spillway_crds::Secrets;

use crate::errors::{ApiError, call};

type Key = (String, String);

#[derive(Default)]
pub(crate) struct SecretCache {
    /// Newest resourceVersion of every Secret that is there.
    versions: Mutex<HashMap<Key, String>>,
    /// With the resourceVersion that they were fetched at.
    contents: Mutex<HashMap<Key, (String, Secret)>>,
}

/// One watch: what it saw since it began anew.
#[derive(Default)]
pub(crate) struct Relist(HashSet<Key>);

/// The Secrets of a pipeline that are there, and their versions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named {
    pub(crate) secrets: Secrets,
    /// `resourceVersion` by name.
    pub(crate) versions: BTreeMap<String, String>,
    /// Those that are there and can't be read.
    pub(crate) unreadable: Vec<Unreadable>,
}

impl Named {
    fn extend(&mut self, found: Option<(String, (String, Secret))>) {
        let Some((name, (version, secret))) = found else { return };
        self.secrets.insert(secret);
        self.versions.insert(name, version);
    }
}

/// A Secret that can't be read now.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    pub(crate) reason: &'static str,
    /// Names it.
    pub(crate) message: String,
    /// What was in it when it was last read is used.
    pub(crate) last_known: bool,
}

impl SecretCache {
    /// Takes an event of a watch in `scope` (`None`: all namespaces) in. Returns namespace and name of the Secrets
    /// that came, changed or went.
    pub(crate) fn take(
        &self,
        scope: Option<&str>,
        relist: &mut Relist,
        event: Event<ObjectMeta>,
    ) -> Vec<Key> {
        let key = |metadata: &ObjectMeta| {
            (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
        };
        match event {
            Event::Init => {
                relist.0.clear();
                Vec::new()
            }
            Event::InitApply(metadata) | Event::Apply(metadata) => {
                let key = key(&metadata);
                let version = metadata.resource_version.unwrap_or_default();
                relist.0.insert(key.clone());
                let before = self.versions.lock().insert(key.clone(), version.clone());
                if before == Some(version) { Vec::new() } else { vec![key] }
            }
            Event::Delete(metadata) => {
                let key = key(&metadata);
                self.versions.lock().remove(&key).map(|_| key).into_iter().collect()
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut relist.0);
                let mut gone = Vec::new();
                self.versions.lock().retain(|key, _| {
                    let keep = scope.is_some_and(|scope| scope != key.0) || seen.contains(key);
                    if !keep {
                        gone.push(key.clone());
                    }
                    keep
                });
                gone
            }
        }
    }

    /// Whether there is such a Secret in a namespace that is watched.
    pub(crate) fn is_there(&self, namespace: &str, name: &str) -> bool {
        self.versions.lock().contains_key(&(namespace.to_owned(), name.to_owned()))
    }

    /// Those of `names` that are there.
    ///
    /// # Errors
    /// When one that is there can't be read.
    pub(crate) async fn get(
        &self,
        client: &Client,
        namespace: &str,
        names: impl IntoIterator<Item = String>,
    ) -> Result<Named, ApiError> {
        let mut named = Named::default();
        for name in names {
            let found = self.get_one(client, namespace, &name).await?;
            named.extend(found.map(|found| (name, found)));
        }
        Ok(named)
    }

    /// Those of `names` that are there; one that can't be read as it was last read.
    pub(crate) async fn get_what_can_be_read(
        &self,
        client: &Client,
        namespace: &str,
        names: impl IntoIterator<Item = String>,
    ) -> Named {
        let mut named = Named::default();
        for name in names {
            let found = match self.get_one(client, namespace, &name).await {
                Ok(found) => found,
                Err(error) => {
                    let last = self.contents.lock().get(&(namespace.to_owned(), name.clone())).cloned();
                    named.unreadable.push(Unreadable {
                        reason: error.reason(),
                        message: error.to_string(),
                        last_known: last.is_some(),
                    });
                    last
                }
            };
            named.extend(found.map(|found| (name, found)));
        }
        named
    }

    /// With its version.
    async fn get_one(
        &self,
        client: &Client,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(String, Secret)>, ApiError> {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(version) = self.versions.lock().get(&key).cloned() else { return Ok(None) };
        let cached = self.contents.lock().get(&key).filter(|(at, _)| *at == version).cloned();
        if cached.is_some() {
            return Ok(cached);
        }
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let Some(secret) = call(format!("read Secret {name}"), api.get_opt(name)).await? else {
            return Ok(None);
        };
        let version = secret.metadata.resource_version.clone().unwrap_or_default();
        self.contents.lock().insert(key, (version.clone(), secret.clone()));
        Ok(Some((version, secret)))
    }

    /// As [`SecretCache::get`], and of those that are gone what was in them when they were last read: a namespace that
    /// is being deleted takes its Secrets before the pipeline that still needs them to clean up.
    ///
    /// # Errors
    /// As [`SecretCache::get`].
    pub(crate) async fn get_or_last_known(
        &self,
        client: &Client,
        namespace: &str,
        names: impl IntoIterator<Item = String> + Clone,
    ) -> Result<Named, ApiError> {
        let mut named = self.get(client, namespace, names.clone()).await?;
        let gone: Vec<String> =
            names.into_iter().filter(|name| named.secrets.entries(name).is_none()).collect();
        let contents = self.contents.lock();
        for name in gone {
            if let Some((version, secret)) = contents.get(&(namespace.to_owned(), name.clone())) {
                named.secrets.insert(secret.clone());
                named.versions.insert(name, version.clone());
            }
        }
        drop(contents);
        Ok(named)
    }

    /// Forgets what is in the Secrets of a namespace that no pipeline there names any more.
    pub(crate) fn keep_only(&self, namespace: &str, named: &HashSet<String>) {
        self.contents.lock().retain(|(place, name), _| place != namespace || named.contains(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, version: &str) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("ns".into()),
            name: Some(name.into()),
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        }
    }

    fn key(name: &str) -> Key {
        ("ns".into(), name.into())
    }

    #[tokio::test]
    async fn what_was_in_a_secret_that_is_gone_is_known_until_no_pipeline_names_it() {
        let (cache, mut relist) = (SecretCache::default(), Relist::default());
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Nothing is asked of it here.
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let content: Secret =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}, "stringData": {"k": "v"}}))
                .unwrap();
        cache.take(None, &mut relist, Event::Apply(secret("a", "1")));
        cache.contents.lock().insert(key("a"), ("1".into(), content));
        cache.take(None, &mut relist, Event::Delete(secret("a", "1")));
        let found = async |last: bool| {
            let names = ["a".to_owned()];
            let named = match last {
                true => cache.get_or_last_known(&client, "ns", names).await,
                false => cache.get(&client, "ns", names).await,
            };
            named.unwrap().secrets.entries("a").is_some()
        };
        assert_eq!((found(false).await, found(true).await), (false, true));
        cache.keep_only("ns", &HashSet::new());
        assert!(!found(true).await);
    }

    #[tokio::test]
    async fn a_secret_that_cant_be_read_is_named_and_the_others_and_what_was_known_go_on() {
        let (cache, mut relist) = (SecretCache::default(), Relist::default());
        // Nobody answers.
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let content = |name: &str| -> Secret {
            serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "stringData": {"k": "v"}}))
                .unwrap()
        };
        for (name, version) in [("changed", "2"), ("new", "1"), ("same", "1")] {
            cache.take(None, &mut relist, Event::Apply(secret(name, version)));
        }
        for name in ["changed", "same"] {
            cache.contents.lock().insert(key(name), ("1".into(), content(name)));
        }
        let names = ["changed", "new", "same"].map(str::to_owned);
        let named = cache.get_what_can_be_read(&client, "ns", names).await;
        let unreadable: Vec<_> = named
            .unreadable
            .iter()
            .map(|secret| (secret.message.split(':').next().unwrap_or_default(), secret.last_known))
            .collect();
        assert_eq!(unreadable, [("read Secret changed", true), ("read Secret new", false)]);
        assert_eq!(
            named.versions.into_iter().collect::<Vec<_>>(),
            [("changed".into(), "1".into()), ("same".into(), "1".into())]
        );
    }

    #[test]
    fn a_secret_is_news_when_it_comes_changes_or_goes() {
        let (cache, mut relist) = (SecretCache::default(), Relist::default());
        for (event, news) in [
            (Event::Init, vec![]),
            (Event::InitApply(secret("a", "1")), vec![key("a")]),
            (Event::InitDone, vec![]),
            (Event::Apply(secret("a", "1")), vec![]),
            (Event::Apply(secret("a", "2")), vec![key("a")]),
            (Event::Apply(secret("b", "3")), vec![key("b")]),
            (Event::Delete(secret("b", "3")), vec![key("b")]),
            // The watch began anew, and "a" went meanwhile.
            (Event::Init, vec![]),
            (Event::InitDone, vec![key("a")]),
        ] {
            let what = format!("{event:?}");
            assert_eq!(cache.take(None, &mut relist, event), news, "{what}");
        }
    }
}
