use crate::exit::{Exit, Failure};
#[derive(clap::Args)]
pub struct Args {}
pub async fn run(_args: Args) -> Result<Exit, Failure> { Ok(Exit::Done) }
