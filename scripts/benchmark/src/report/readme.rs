//! The README's blocks of figures: each between its two markers, and nowhere else.

use std::{fs, path::Path};

use super::text;
use crate::{
    failure::{Failure, Trying},
    run::Results,
};

/// Replaces the block of figures; the chart is named by its place beside the page.
pub(crate) fn write(page: &Path, chart: &str, results: &Results) -> Result<(), Failure> {
    let block = format!("{}\n![CPU of each proxy, by request and by line of a stream]({chart})\n", text(results));
    write_block(page, "bench", &block)
}

/// Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->`.
pub(crate) fn write_block(page: &Path, name: &str, block: &str) -> Result<(), Failure> {
    let place = page.display();
    let old = fs::read_to_string(page).trying(format_args!("{place} can't be read"))?;
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let new = replaced(&old, (&begin, &end), block).ok_or_else(|| {
        Failure::new(format!("{place} has no block `{name}`: put `{begin}` and `{end}` on lines of their own"))
    })?;
    fs::write(page, new).trying(format_args!("{place} can't be written"))
}

fn replaced(page: &str, (begin, end): (&str, &str), block: &str) -> Option<String> {
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n{block}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::replaced;

    const BENCH: (&str, &str) = ("<!-- bench -->", "<!-- /bench -->");

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let page = "a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n";
        assert_eq!(replaced(page, BENCH, "new\n").unwrap(), "a\n<!-- bench -->\nnew\n<!-- /bench -->\nb\n");
        assert_eq!(replaced("a\n<!-- bench -->\nold", BENCH, "new"), None);
        assert_eq!(replaced("a", BENCH, "new"), None);
    }
}
