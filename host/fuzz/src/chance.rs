//! Seeded changes of seeds: the same each time, so that a failure comes again.

/// Numbers that look like chance and are the same each time.
#[derive(Debug)]
pub struct Chance {
    state: u64,
    most_bytes: usize,
}

impl Chance {
    /// Inputs of at most so many bytes.
    pub fn new(most_bytes: usize) -> Self {
        Self { state: 1, most_bytes }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let limit = u64::try_from(limit.max(1)).expect("a length fits");
        usize::try_from(self.state % limit).expect("less than a length")
    }

    /// A seed with up to eight changes.
    pub fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.seed(seeds).to_vec();
        for _ in 0..=self.below(8) {
            self.change(&mut input, seeds);
        }
        input.truncate(self.most_bytes);
        input
    }

    fn seed<'a>(&mut self, seeds: &'a [Vec<u8>]) -> &'a [u8] {
        &seeds[self.below(seeds.len())]
    }

    /// A byte changed, put in or taken out, a part said twice or taken from another seed, or the end cut off.
    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        const SIGNS: &[u8] = b"{}[]\":,\\/.%:@ \t\r\n\0\x80\xef\xbb\xbf\xff0919-+eE";
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 if at < input.len() => input[at] = u8::try_from(self.below(256)).expect("a byte"),
            1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 => input.insert(at, SIGNS[self.below(SIGNS.len())]),
            3 if at < input.len() => drop(input.remove(at)),
            4 => {
                let end = at + self.below((input.len() - at).min(64) + 1);
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            5 => {
                let other = self.seed(seeds).to_vec();
                let from = self.below(other.len() + 1);
                let end = from + self.below((other.len() - from).min(64) + 1);
                input.splice(at..at, other[from..end].iter().copied());
            }
            _ => input.truncate(at.max(1)),
        }
    }
}
