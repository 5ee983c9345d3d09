//! The Secrets that a pipeline names, as read by whoever may read them: the operator from the cluster,
//! `spillway up` from the manifest file.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::Secret;

/// Secrets by name. `Debug` names them and never shows what is in them.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, BTreeMap<String, Vec<u8>>>);

impl Secrets {
    /// Takes one in; `stringData` wins over `data`, as in the API server. A Secret without a name is left out.
    pub fn insert(&mut self, secret: Secret) {
        let Some(name) = secret.metadata.name else { return };
        let mut entries: BTreeMap<String, Vec<u8>> =
            secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        entries.extend(
            secret.string_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes())),
        );
        self.0.insert(name, entries);
    }

    /// Every entry of the Secret; `None` when it is not there.
    pub fn entries(&self, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        self.0.get(name)
    }
}

impl FromIterator<Secret> for Secrets {
    fn from_iter<I: IntoIterator<Item = Secret>>(secrets: I) -> Self {
        let mut all = Self::default();
        secrets.into_iter().for_each(|secret| all.insert(secret));
        all
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
