//! Tables whose rows are printed one by one, so that their widths are known beforehand.

#[derive(Clone, Copy)]
pub enum Align {
    Left,
    Right,
}

/// Name, width, and the side its cells keep to.
pub type Column = (&'static str, usize, Align);

pub struct Table<const COLUMNS: usize> {
    columns: [Column; COLUMNS],
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub fn new(columns: [Column; COLUMNS]) -> Self {
        Self { columns }
    }

    pub fn print_head(&self) {
        self.print(&self.columns.map(|(name, ..)| name.to_owned()));
        self.print(&self.columns.map(|(_, width, _)| "-".repeat(width)));
    }

    pub fn print(&self, cells: &[String; COLUMNS]) {
        let cells = cells.iter().zip(self.columns).map(|(cell, (_, width, align))| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
