//! In which fields callers cap the output: each API reads its own and ignores the others, so that a cap in another's field is
//! none.

use crate::llm::{Operation, Surface};

/// A field with a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CapField {
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    /// `options.num_predict`.
    NumPredict,
}

/// The largest number in each field, of those that are there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caps([Option<u32>; 4]);

impl Caps {
    /// A cap of zero is none, as for those who read it.
    pub(super) fn keep(&mut self, field: CapField, tokens: u32) {
        if tokens > 0 {
            let cap = self.0.get_mut(place(field)).expect("each field has its place");
            *cap = (*cap).max(Some(tokens));
        }
    }

    /// The largest cap that a backend reads for this operation.
    pub(super) fn of(&self, surface: Surface, operation: Operation) -> Option<u32> {
        read_for(surface, operation).iter().filter_map(|field| self.0.get(place(*field)).copied().flatten()).max()
    }
}

fn place(field: CapField) -> usize {
    match field {
        CapField::MaxTokens => 0,
        CapField::MaxCompletionTokens => 1,
        CapField::MaxOutputTokens => 2,
        CapField::NumPredict => 3,
    }
}

fn read_for(surface: Surface, operation: Operation) -> &'static [CapField] {
    match (surface, operation) {
        (Surface::Ollama, _) => &[CapField::NumPredict],
        (Surface::OpenAi, Operation::Respond) => &[CapField::MaxOutputTokens],
        (Surface::OpenAi, Operation::Chat) => &[CapField::MaxTokens, CapField::MaxCompletionTokens],
        (Surface::OpenAi | Surface::Anthropic, _) => &[CapField::MaxTokens],
        (Surface::Other, _) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fields_that_an_api_reads_cap_it() {
        let mut caps = Caps::default();
        for (field, tokens) in [
            (CapField::MaxTokens, 5),
            (CapField::MaxCompletionTokens, 7),
            (CapField::MaxOutputTokens, 9),
            (CapField::NumPredict, 11),
            (CapField::NumPredict, 0),
        ] {
            caps.keep(field, tokens);
        }
        for (surface, operation, cap) in [
            (Surface::Ollama, Operation::Chat, Some(11)),
            (Surface::Ollama, Operation::Generate, Some(11)),
            (Surface::OpenAi, Operation::Chat, Some(7)),
            (Surface::OpenAi, Operation::Complete, Some(5)),
            (Surface::OpenAi, Operation::Respond, Some(9)),
            (Surface::Anthropic, Operation::Chat, Some(5)),
            (Surface::Other, Operation::Chat, None),
        ] {
            assert_eq!(caps.of(surface, operation), cap, "{surface:?} {operation:?}");
        }
        assert_eq!(Caps::default().of(Surface::OpenAi, Operation::Chat), None);
    }
}
