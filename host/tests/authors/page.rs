//! A page of Markdown whose blocks are followed: `sh` blocks are run, and a block that begins ```` ```LANGUAGE FILE ```` is the text
//! of that file.

use std::{fs, path::Path};

/// One page.
pub(crate) struct Page {
    blocks: Vec<Block>,
}

struct Block {
    /// The last heading of the second degree above it.
    heading: String,
    /// What stands behind the fence.
    info: String,
    text: String,
}

impl Page {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (mut blocks, mut heading, mut open) = (Vec::new(), String::new(), None::<Block>);
        for line in text.lines() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(info), None) => {
                    open = Some(Block { heading: heading.clone(), info: info.to_owned(), text: String::new() });
                }
                (None, Some(block)) => block.text.extend([line, "\n"]),
                (None, None) => {
                    if let Some(title) = line.strip_prefix("## ") {
                        title.clone_into(&mut heading);
                    }
                }
            }
        }
        Self { blocks }
    }

    /// All commands under a heading.
    pub(crate) fn commands(&self, heading: &str) -> String {
        let commands: String =
            self.under(heading).filter(|block| block.info == "sh").map(|block| &*block.text).collect();
        assert!(!commands.is_empty(), "there are no commands under '{heading}'");
        commands
    }

    /// Does what the blocks under a heading say, one after the other; answers what the commands said.
    pub(crate) fn follow(&self, heading: &str, folder: &Path, run: impl Fn(&str) -> String) -> String {
        let mut told = String::new();
        for block in self.under(heading) {
            match block.info.split_once(' ') {
                Some((_, file)) => fs::write(folder.join(file), &block.text).unwrap(),
                None if block.info == "sh" => told += &run(&block.text),
                None => {}
            }
        }
        told
    }

    fn under<'a>(&'a self, heading: &'a str) -> impl Iterator<Item = &'a Block> {
        self.blocks.iter().filter(move |block| block.heading == heading)
    }
}
