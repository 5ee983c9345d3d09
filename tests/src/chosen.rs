//! Which tests a program with a main of its own was asked to run.

use libtest_mimic::Arguments;

pub struct Chosen {
    pub arguments: Arguments,
    /// Parts of names, of which libtest-mimic takes but one.
    words: Vec<String>,
}

impl Chosen {
    /// From the command line; so many tests run side by side unless that says otherwise.
    pub fn from_args(side_by_side: usize) -> Self {
        let (words, flags) = split(std::env::args().collect());
        let mut arguments = Arguments::from_iter(flags);
        arguments.test_threads = arguments.test_threads.or(Some(side_by_side));
        Self { arguments, words }
    }

    /// Whether a test's name holds one of the words.
    pub fn names(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word))
    }
}

/// The words, and all else.
fn split(arguments: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (mut words, mut flags): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for (place, argument) in arguments.into_iter().enumerate() {
        let takes_a_value = ["--test-threads", "--skip", "--format", "--color", "--logfile"];
        let value = flags.last().is_some_and(|flag| takes_a_value.contains(&flag.as_str()));
        let list = if place > 0 && !argument.starts_with('-') && !value { &mut words } else { &mut flags };
        list.push(argument);
    }
    (words, flags)
}
