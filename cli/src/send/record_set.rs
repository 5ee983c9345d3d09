//! What was sent, by producer and sequence number, and what was said of it.

/// One producer's records, numbered from 0.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// The producer's name in its records.
    pub producer: String,
    /// Records that were sent at all: `0..count`.
    pub count: u64,
    acknowledged: Bits,
    unclear: Bits,
}

impl Sent {
    pub fn new(producer: String) -> Self {
        Self { producer, ..Self::default() }
    }

    /// The server said that it has this record.
    pub fn acknowledge(&mut self, number: u64) {
        self.acknowledged.set(number);
        self.count = self.count.max(number + 1);
    }

    /// Nobody knows whether the server has it.
    pub fn unclear(&mut self, number: u64) {
        self.unclear.set(number);
        self.count = self.count.max(number + 1);
    }

    /// The server said that it does not take it.
    pub fn refuse(&mut self, number: u64) {
        self.count = self.count.max(number + 1);
    }

    pub fn is_acknowledged(&self, number: u64) -> bool {
        self.acknowledged.get(number)
    }

    pub fn is_unclear(&self, number: u64) -> bool {
        self.unclear.get(number)
    }

    pub fn acknowledged_total(&self) -> u64 {
        self.acknowledged.count()
    }

    pub fn unclear_total(&self) -> u64 {
        self.unclear.count()
    }
}

#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, number: u64) {
        let (word, bit) = place(number);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << bit;
    }

    fn get(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.0.get(word).is_some_and(|bits| bits & (1 << bit) != 0)
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|bits| u64::from(bits.count_ones())).sum()
    }
}

fn place(number: u64) -> (usize, u32) {
    ((number / 64) as usize, (number % 64) as u32)
}
