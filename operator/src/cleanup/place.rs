//! Where the data of a pipeline that is being deleted lies, if its spec and its Secrets still say so.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use spillway_crds::{LogPipeline, ValidatedPipeline, validate};

use crate::{
    ctx::Ctx,
    dereference::{Dereferenced, dereference, last_known},
    errors::call,
    findings,
    plan::{self, Inputs, Plan},
    target::Target,
};

/// Where bucket and tables are, if that can be known.
pub(super) enum Place {
    Known(Box<Known>),
    Blocked { why: String, hopeless: bool },
}

pub(super) struct Known {
    pub(super) valid: ValidatedPipeline,
    pub(super) plan: Plan,
    pub(super) seen: Dereferenced,
}

impl Known {
    /// The inner error: Secrets that are missing.
    ///
    /// # Errors
    /// What is wrong with the spec.
    fn of(pipeline: &LogPipeline, seen: Dereferenced) -> Result<Result<Self, String>, String> {
        let valid = validate(pipeline).map_err(|errors| findings::text(&errors))?;
        let inputs = Inputs { secrets: seen.secrets.clone(), ..Inputs::default() };
        let plan = plan::plan(&valid, &inputs).map_err(|error| error.to_string())?;
        if plan.secret_errors.is_empty() {
            return Ok(Ok(Self { valid, plan, seen }));
        }
        Ok(Err(findings::text(&plan.secret_errors)))
    }
}

impl Place {
    pub(super) async fn find(ctx: &Ctx, target: &Target, pipeline: Option<&LogPipeline>) -> Self {
        let Some(pipeline) = pipeline else {
            return Self::Blocked { why: "the object can't be read".to_owned(), hopeless: false };
        };
        let blocked = |why: String| Self::Blocked { why, hopeless: false };
        let missing = match dereference(ctx, target, &pipeline.spec).await {
            Err(error) => return blocked(error.to_string()),
            Ok(seen) => match Known::of(pipeline, seen) {
                Ok(Ok(known)) => return Self::Known(Box::new(known)),
                Ok(Err(missing)) => missing,
                Err(why) => return blocked(why),
            },
        };
        if !namespace_is_going(ctx, target).await {
            return blocked(missing);
        }
        match last_known(ctx, target, &pipeline.spec).await.map(|seen| Known::of(pipeline, seen)) {
            Ok(Ok(Ok(known))) => Self::Known(Box::new(known)),
            _ => Self::Blocked { why: missing, hopeless: true },
        }
    }

    pub(super) fn is_hopeless(&self) -> bool {
        matches!(self, Self::Blocked { hopeless: true, .. })
    }

    /// # Errors
    /// Why it isn't known.
    pub(super) fn known(&self) -> Result<&Known, String> {
        match self {
            Self::Known(known) => Ok(known),
            Self::Blocked { why, .. } => Err(why.clone()),
        }
    }
}

/// In a namespace that is being deleted nothing can be created any more, so what is missing stays missing. Asked
/// by a dry run, because the operator has no right to read namespaces.
pub(super) async fn namespace_is_going(ctx: &Ctx, target: &Target) -> bool {
    let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &target.namespace);
    let mut probe = ConfigMap::default();
    probe.metadata.name = Some(format!("{}-probe", target.name));
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    match call("ask for the namespace", api.create(&parameters, &probe)).await {
        Err(error) if error.is_not_found() => true,
        Err(error) => error.is_forbidden() && error.to_string().contains("being terminated"),
        Ok(_) => false,
    }
}
