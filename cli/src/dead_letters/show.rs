//! `dead-letters show`

use spillway_bucket::Bucket;

use super::store::{self, DeadLetterError};
use crate::output::{self, Format};

pub async fn run(bucket: &Bucket, key: &str, raw: bool, format: Format) -> Result<(), DeadLetterError> {
    let letters = store::read(bucket, key).await?;
    for letter in &letters {
        if raw {
            let bytes = letter.raw().unwrap_or_default();
            output::line(String::from_utf8_lossy(&bytes).trim_end_matches('\n'));
            continue;
        }
        match format {
            Format::Json => output::json(letter)?,
            Format::Human => {
                let row = &letter.row;
                let project = row.project.as_ref().map_or("unknown project", |project| project.as_str());
                output::line(&format!("row {} of {project}: {}: {}", row.row, row.reason, row.detail));
                match &letter.line {
                    Some(line) => output::line(&format!("  {line}")),
                    None => output::line("  (not text; --json shows it in base64)"),
                }
            }
        }
    }
    Ok(())
}
