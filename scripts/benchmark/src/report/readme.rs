//! The README's block of figures: between two markers, and nowhere else.

use std::{fs, path::Path};

use super::text;
use crate::{
    failure::{Failure, Trying},
    run::Results,
};

const BEGIN: &str = "<!-- bench -->";
const END: &str = "<!-- /bench -->";

/// Replaces the block; the chart is named by its place beside the page.
pub(crate) fn write(page: &Path, chart: &str, results: &Results) -> Result<(), Failure> {
    let place = page.display();
    let old = fs::read_to_string(page).trying(format_args!("{place} can't be read"))?;
    let block = format!("{}\n![CPU of each proxy, by request and by line of a stream]({chart})\n", text(results));
    let new = replaced(&old, &block).ok_or_else(|| {
        Failure::new(format!("{place} has no block for the figures: put `{BEGIN}` and `{END}` on lines of their own"))
    })?;
    fs::write(page, new).trying(format_args!("{place} can't be written"))
}

fn replaced(page: &str, block: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{block}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let page = "a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n";
        assert_eq!(replaced(page, "new\n").unwrap(), "a\n<!-- bench -->\nnew\n<!-- /bench -->\nb\n");
        assert_eq!(replaced("a\n<!-- bench -->\nold", "new"), None);
        assert_eq!(replaced("a", "new"), None);
    }
}
