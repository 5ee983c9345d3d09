//! What a versioned bucket keeps under a key beside its present content.

use aws_sdk_s3::types::EncodingType;

use super::{MAX_KEYS, S3Bucket, decode};
use crate::BucketError;
use crate::error::Operation;

/// A version or a delete marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyVersion {
    /// Relative to the prefix.
    pub(crate) key: String,
    pub(crate) version: String,
}

/// Where a page of a listing ended, in the store's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marker {
    key: Option<String>,
    version: Option<String>,
}

impl S3Bucket {
    /// One page of all versions and delete markers below the prefix, after `marker`; `None`: it was the last.
    pub(crate) async fn list_versions(
        &self,
        marker: &Marker,
    ) -> Result<(Vec<KeyVersion>, Option<Marker>), BucketError> {
        let output = self
            .client
            .list_object_versions()
            .bucket(&self.bucket)
            .prefix(&self.prefix)
            .set_key_marker(marker.key.clone())
            .set_version_id_marker(marker.version.clone())
            .max_keys(i32::try_from(MAX_KEYS).unwrap_or(1000))
            .encoding_type(EncodingType::Url)
            .send()
            .await
            .map_err(|error| self.fail(Operation::DeleteVersions, "", &error))?;
        let encoded = output.encoding_type == Some(EncodingType::Url);
        let plain = |key: String| if encoded { decode(&key) } else { key };
        let versions = output.versions.unwrap_or_default().into_iter().map(|one| (one.key, one.version_id));
        let markers =
            output.delete_markers.unwrap_or_default().into_iter().map(|one| (one.key, one.version_id));
        let found = versions
            .chain(markers)
            .filter_map(|(key, version)| {
                let key = plain(key?).strip_prefix(&self.prefix)?.to_owned();
                Some(KeyVersion { key, version: version.unwrap_or_else(|| "null".to_owned()) })
            })
            .collect();
        let next = (output.is_truncated == Some(true)).then(|| Marker {
            key: output.next_key_marker.map(plain),
            version: output.next_version_id_marker,
        });
        Ok((found, next))
    }

    /// Removes versions for good. Returns the keys of those that could not be, and why.
    pub(crate) async fn delete_versions(
        &self,
        versions: &[KeyVersion],
    ) -> Result<Vec<(String, BucketError)>, BucketError> {
        let mut failed = Vec::new();
        for page in versions.chunks(MAX_KEYS) {
            let keys = page.iter().map(|one| (one.key.as_str(), Some(one.version.as_str())));
            failed.extend(self.delete_page(Operation::DeleteVersions, keys).await?);
        }
        Ok(failed)
    }
}
