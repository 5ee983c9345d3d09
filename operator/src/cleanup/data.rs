//! Taking tables and bucket away, if they are the pipeline's.

use std::time::Duration;

use spillway_bucket::{Bucket, BucketError, Emptying};
use spillway_schema::Dropped;
use spillway_syncer::manifest::{MANIFEST_KEY, Manifest};

use super::place::{Known, Place};
use crate::{
    ctx::Ctx,
    memory::Memory,
    outside,
    owner::{self, OWNER_KEY, Owner},
    target::Target,
};

/// Then the next look at whether it is still to be done; a large bucket takes many.
const EMPTY_LIMIT: Duration = Duration::from_secs(120);
const DROP_LIMIT: Duration = Duration::from_secs(300);

/// What came of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done(String),
    /// There is more of it, and it gets less.
    Advanced,
    /// Nothing may be deleted, and why.
    Keep(String),
}

/// Tables first: the manifest says which rows are the pipeline's, and it goes with the bucket.
///
/// # Errors
/// What is in the way.
pub(super) async fn drop_tables(
    ctx: &Ctx,
    target: &Target,
    place: &Place,
    memory: &mut Memory,
) -> Result<Outcome, String> {
    let Known { valid, plan, seen } = place.known()?;
    let (bucket, _) = open(ctx, target, place, memory).await?;
    let store = outside::store(&plan.bucket.settings);
    let at_the_store = |error: String| format!("{store}: {error}");
    let manifest = manifest(&bucket).await.map_err(at_the_store)?;
    let owner = owner::read(&bucket).await.map_err(|error| at_the_store(error.to_string()))?;
    if let Some(why) = not_ours(owner.as_ref(), manifest.is_some(), target, &bucket.describe()) {
        return Ok(Outcome::Keep(why));
    }
    let client = outside::connect(valid, &plan.schema, seen).map_err(|finding| finding.message)?;
    let uid = manifest.map(|manifest| manifest.pipeline.0);
    let dropping = spillway_schema::drop_all(&client, &plan.schema.spec, uid.as_deref());
    match tokio::time::timeout(DROP_LIMIT, dropping).await {
        Ok(Ok(dropped)) => Ok(of_dropped(&dropped, &bucket.describe())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("ClickHouse did not drop the tables in time".to_owned()),
    }
}

/// # Errors
/// What is in the way.
pub(super) async fn empty(
    ctx: &Ctx,
    target: &Target,
    place: &Place,
    memory: &mut Memory,
) -> Result<Outcome, String> {
    let (bucket, inputs) = open(ctx, target, place, memory).await?;
    let name = bucket.describe();
    let store = outside::store(&place.known()?.plan.bucket.settings);
    let at_the_store = |error: String| format!("{store}: {error}");
    let owner = owner::read(&bucket).await.map_err(|error| at_the_store(error.to_string()))?;
    if owner.is_none() {
        // Without a manifest nothing was ever staged; or all of it is gone, the record of the owner last.
        return Ok(match manifest(&bucket).await.map_err(at_the_store)? {
            Some(_) => Outcome::Keep(nobodys(&name)),
            None => Outcome::Done(format!("nothing of it is in {name}")),
        });
    }
    if let Some(why) = not_ours(owner.as_ref(), true, target, &name) {
        return Ok(Outcome::Keep(why));
    }
    let place = memory.course.emptying.take().filter(|(before, _)| *before == inputs);
    let place = place.unwrap_or_else(|| (inputs, Emptying::keeping_for_last([MANIFEST_KEY, OWNER_KEY])));
    let (_, emptying) = memory.course.emptying.insert(place);
    let before = emptying.deleted + emptying.foreign;
    let ended = tokio::time::timeout(EMPTY_LIMIT, bucket.empty(emptying)).await;
    let advanced = emptying.deleted + emptying.foreign > before;
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(BucketError::NoSuchBucket { .. })) => {
            return Ok(Outcome::Done(format!("{name} does not exist")));
        }
        _ if advanced => return Ok(Outcome::Advanced),
        Ok(Err(error)) => return Err(at_the_store(error.to_string())),
        Err(_) => return Err(at_the_store(format!("{name} did not answer in time"))),
    }
    let result = of_emptied(emptying, &name);
    if result.is_err() {
        // What could not be deleted is listed again.
        memory.course.emptying = None;
    }
    result.map(Outcome::Done)
}

/// With what it was opened by: a corrected Secret opens it anew.
async fn open(
    ctx: &Ctx,
    target: &Target,
    place: &Place,
    memory: &mut Memory,
) -> Result<(Bucket, u64), String> {
    let Known { valid, plan, seen } = place.known()?;
    let inputs = outside::bucket_inputs(target, valid, &plan.bucket, seen);
    let opened = outside::open(ctx, target, valid, &plan.bucket, seen, &mut memory.outside, inputs).await;
    Ok((opened.map_err(|error| error.to_string())?, inputs))
}

/// # Errors
/// When it can't be read, which is something else than that there is none.
async fn manifest(bucket: &Bucket) -> Result<Option<Manifest>, String> {
    match bucket.get(MANIFEST_KEY).await {
        Ok(Some((bytes, _))) => Manifest::parse(&bytes).map(Some).map_err(|error| error.to_string()),
        Ok(None) | Err(BucketError::NoSuchBucket { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Why nothing may be deleted.
fn not_ours(owner: Option<&Owner>, manifest: bool, target: &Target, bucket: &str) -> Option<String> {
    match owner {
        Some(owner) if owner.is(target) => None,
        Some(owner) => Some(format!("{bucket} belongs to {owner}, and its data stays")),
        None if manifest => Some(nobodys(bucket)),
        None => None,
    }
}

fn nobodys(bucket: &str) -> String {
    format!(
        "{bucket} has data, but no {OWNER_KEY} that says whose it is; delete it by hand if nobody misses it"
    )
}

/// The bucket goes only after its tables: what is left of them is identified by the manifest.
fn of_dropped(dropped: &Dropped, bucket: &str) -> Outcome {
    match dropped {
        Dropped::All(_) => Outcome::Done(dropped.to_string()),
        Dropped::Kept { .. } => Outcome::Keep(format!(
            "{bucket} is kept with the tables, because its manifest says which rows are whose (empty it by hand after them): {dropped}"
        )),
    }
}

/// # Errors
/// What could not be deleted.
fn of_emptied(emptying: &Emptying, bucket: &str) -> Result<String, String> {
    if let Some(error) = &emptying.first_failure {
        return Err(format!("{} objects could not be deleted: {error}", emptying.failed));
    }
    let mut said = format!("deleted {} objects of {bucket}", emptying.deleted);
    if let Some(error) = &emptying.versions_kept {
        said.push_str(&format!("; their earlier versions stay until a lifecycle rule takes them: {error}"));
    }
    if emptying.foreign > 0 {
        let example = emptying.examples.first().map_or("", String::as_str);
        let count = emptying.foreign;
        said.push_str(&format!("; {count} that Spillway did not write stay, such as {example}"));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use spillway_bucket::PutMeta;
    use spillway_model::settings::BucketSettings;
    use spillway_schema::drop::WhyKept;

    use super::*;

    fn target(uid: &str) -> Target {
        let mut pipeline = spillway_crds::LogPipeline::new("logs", spillway_crds::LogPipelineSpec::default());
        pipeline.metadata.namespace = Some("ns".to_owned());
        pipeline.metadata.uid = Some(uid.to_owned());
        Target::of(&pipeline).unwrap()
    }

    #[test]
    fn only_its_recorded_owner_takes_data_away() {
        let me = target("me");
        for (owner, manifest, kept) in [
            (Some(Owner::of(&me)), true, None),
            (Some(Owner::of(&me)), false, None),
            (Some(Owner::of(&target("other"))), true, Some("belongs to LogPipeline ns/logs (uid other)")),
            (Some(Owner::of(&target("other"))), false, Some("belongs to")),
            (None, true, Some("no _spillway/owner.json")),
            (None, false, None),
        ] {
            let why = not_ours(owner.as_ref(), manifest, &me, "s3://b/");
            match kept {
                Some(text) => assert!(why.as_deref().is_some_and(|why| why.contains(text)), "{why:?}"),
                None => assert_eq!(why, None),
            }
        }
    }

    #[tokio::test]
    async fn a_damaged_manifest_is_not_none() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Bucket::open(&BucketSettings::directory(folder.path())).await.unwrap();
        assert_eq!(manifest(&bucket).await, Ok(None));
        bucket.put_if_absent(MANIFEST_KEY, "{".into(), &PutMeta::default()).await.unwrap();
        assert!(manifest(&bucket).await.unwrap_err().contains("damaged"));
    }

    #[test]
    fn a_bucket_whose_tables_are_kept_is_kept() {
        let kept = Dropped::Kept { why: WhyKept::ForeignRows, by_hand: vec!["DROP TABLE logs".to_owned()] };
        let Outcome::Keep(why) = of_dropped(&kept, "s3://b/") else { panic!("emptied") };
        assert!(why.contains("s3://b/ is kept") && why.contains("DROP TABLE logs"), "{why}");
        assert!(matches!(of_dropped(&Dropped::All(Vec::new()), "s3://b/"), Outcome::Done(_)));
    }

    #[test]
    fn versions_that_stay_are_told() {
        let mut emptying = Emptying::default();
        emptying.deleted = 3;
        assert_eq!(of_emptied(&emptying, "s3://b/").unwrap(), "deleted 3 objects of s3://b/");
        emptying.versions_kept = Some(BucketError::NoSuchBucket { bucket: "b".to_owned() });
        assert!(of_emptied(&emptying, "s3://b/").unwrap().contains("earlier versions stay"));
    }
}
