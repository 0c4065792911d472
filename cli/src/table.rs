//! Columns for people, as docker prints them.

use std::io::{self, Write};

/// Least width of a column, with the space behind it.
const LEAST: usize = 10;
/// Space behind a column's widest cell.
const SPACE: usize = 3;

/// Prints rows under their heads, each column as wide as its widest cell and three spaces more, and at
/// least ten.
pub(crate) fn print(out: &mut dyn Write, heads: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        let head = heads.get(column).map(|head| head.chars().count());
        let widest = cells.chain(head).max().unwrap_or(0);
        (widest + SPACE).max(LEAST)
    };
    let columns = rows.iter().map(Vec::len).chain([heads.len()]).max();
    let widths: Vec<usize> = (0..columns.unwrap_or(0)).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:<width$}"));
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut heads.iter().copied())?;
    for row in rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_without_a_head_is_shown() {
        let mut out = Vec::new();
        print(&mut out, &[], &[vec!["a".to_owned(), "b".to_owned()]]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\na         b\n");
    }

    #[test]
    fn columns_are_aligned() {
        let mut out = Vec::new();
        let rows = vec![
            vec!["a".to_owned(), "b".to_owned()],
            vec!["long".to_owned(), "c".to_owned()],
        ];
        print(&mut out, &["ID", "NAME"], &rows).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ID        NAME\na         b\nlong      c\n"
        );
    }
}
