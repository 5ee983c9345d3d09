//! Credentials and certificates as values, for a process that has them in memory and no folder to mount.

use std::fmt;

/// Who asks the store.
#[derive(Clone, PartialEq, Eq)]
pub enum Identity {
    /// What the process finds around itself: environment, role of its service account, container role,
    /// profile; the machine's role where `AWS_EC2_METADATA_DISABLED=false` says so.
    Ambient,
    Keys {
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
    },
    /// A role that STS gives for a service account's token. Renewed before it expires, as long as the token
    /// is good: open the bucket anew with a fresh token.
    WebIdentity {
        role_arn: String,
        /// A JWT with the audience `sts.amazonaws.com`.
        token: String,
        /// `None`: AWS's own of the bucket's region.
        sts_endpoint: Option<String>,
    },
}

/// Secrets stay out of logs.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambient => f.write_str("Ambient"),
            Self::Keys { access_key_id, .. } => write!(f, "Keys({access_key_id})"),
            Self::WebIdentity { role_arn, .. } => write!(f, "WebIdentity({role_arn})"),
        }
    }
}

/// How to reach a bucket in place of the folders and files that its settings name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub identity: Identity,
    /// Certificates in PEM that are trusted beside the system's own.
    pub ca_pem: Option<Vec<u8>>,
}

impl Access {
    /// With the system's certificates alone.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self { identity, ca_pem: None }
    }
}
