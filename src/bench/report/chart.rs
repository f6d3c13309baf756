//! A chart as SVG: frame, axes, lines and bars.

use std::fmt::Write as _;

use super::scale::Scale;

/// Room around the plot for title and axes.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 46.0;
/// Colours there are.
pub const COLOURS: usize = 8;

/// A chart at a place in the picture.
pub struct Chart<'a> {
    out: &'a mut String,
    x: Scale,
    y: Scale,
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// What a chart is given.
pub struct Frame<'a> {
    /// Left, top, width and height, pixels.
    pub place: [f64; 4],
    /// The question that it answers.
    pub title: &'a str,
    /// Along.
    pub x: (Scale, &'a str),
    /// Up.
    pub y: (Scale, &'a str),
}

/// Text that XML can hold.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A line of text, `anchor` being start, middle or end.
pub fn text(out: &mut String, at: [f64; 2], class: &str, anchor: &str, words: &str) {
    let words = escaped(words);
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{words}</text>",
        at[0], at[1]
    );
}

impl<'a> Chart<'a> {
    /// Draws the frame.
    pub fn new(out: &'a mut String, frame: &Frame<'_>) -> Self {
        let [left, top, width, height] = frame.place;
        let _ = writeln!(
            out,
            "<rect class=\"card\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"8\"/>"
        );
        text(out, [left + 16.0, top + 22.0], "part", "start", frame.title);
        let mut chart = Self {
            out,
            x: frame.x.0,
            y: frame.y.0,
            left: left + LEFT,
            top: top + TOP + 8.0,
            width: width - LEFT - RIGHT,
            height: height - TOP - 8.0 - BOTTOM,
        };
        chart.axes(frame);
        chart
    }

    fn axes(&mut self, frame: &Frame<'_>) {
        let bottom = self.top + self.height;
        for (value, words) in self.y.marks() {
            let [_, y] = self.at_y(value);
            let _ = writeln!(
                self.out,
                "<path class=\"grid\" d=\"M{:.1} {y:.1}H{:.1}\"/>",
                self.left,
                self.left + self.width
            );
            text(self.out, [self.left - 8.0, y + 4.0], "soft small", "end", &words);
        }
        for (value, words) in self.x.marks() {
            let x = self.left + self.x.place(value) * self.width;
            let _ = writeln!(self.out, "<path class=\"grid\" d=\"M{x:.1} {:.1}V{bottom:.1}\"/>", self.top);
            text(self.out, [x, bottom + 16.0], "soft small", "middle", &words);
        }
        text(self.out, [self.left + self.width, bottom + 34.0], "soft small", "end", frame.x.1);
        text(self.out, [self.left - 46.0, self.top - 14.0], "soft small", "start", frame.y.1);
    }

    fn at_y(&self, y: f64) -> [f64; 2] {
        [self.left, self.top + (1.0 - self.y.place(y)) * self.height]
    }

    fn at(&self, point: [f64; 2]) -> [f64; 2] {
        [self.left + self.x.place(point[0]) * self.width, self.at_y(point[1])[1]]
    }

    fn path(&self, points: &[[f64; 2]]) -> String {
        let mut path = String::new();
        for (i, point) in points.iter().enumerate() {
            let [x, y] = self.at(*point);
            let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        }
        path
    }

    /// A line through `points`.
    pub fn line(&mut self, points: &[[f64; 2]], colour: usize, dashed: bool) {
        if points.is_empty() {
            return;
        }
        let (path, dash) = (self.path(points), if dashed { " dash" } else { "" });
        let _ = writeln!(self.out, "<path class=\"line l{}{dash}\" d=\"{path}\"/>", colour % COLOURS);
    }

    /// What lies under the line through `points`.
    pub fn area(&mut self, points: &[[f64; 2]], colour: usize) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let (path, bottom) = (self.path(points), self.top + self.height);
        let (from, to) = (self.at(*first)[0], self.at(*last)[0]);
        let _ = writeln!(
            self.out,
            "<path class=\"f{} thin\" d=\"{path}L{to:.1} {bottom:.1}L{from:.1} {bottom:.1}Z\"/>",
            colour % COLOURS
        );
    }

    /// A bar from `from` to `to` along the axis; `words` show where a pointer rests.
    pub fn bar(&mut self, from: f64, to: f64, height: f64, class: &str, words: &str) {
        let [left, top] = self.at([from, height]);
        let [right, _] = self.at([to, height]);
        let (width, high) = ((right - left - 1.0).max(0.5), self.top + self.height - top);
        let _ = writeln!(
            self.out,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{high:.1}\">\
             <title>{}</title></rect>",
            escaped(words)
        );
    }

    /// A dot, with words above it where there are any; `hint` shows where a pointer rests.
    pub fn dot(&mut self, point: [f64; 2], colour: usize, words: &str, hint: &str) {
        let [x, y] = self.at(point);
        let _ = writeln!(
            self.out,
            "<circle class=\"f{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{}</title></circle>",
            colour % COLOURS,
            escaped(hint)
        );
        if !words.is_empty() {
            text(self.out, [x, y - 9.0], "small", "middle", words);
        }
    }

    /// Names of lines, below the title, to the right.
    pub fn legend(&mut self, names: &[(String, usize, bool)]) {
        let (mut x, y) = (self.left + self.width, self.top - 14.0);
        for (name, colour, dashed) in names.iter().rev() {
            text(self.out, [x, y], "soft small", "end", name);
            // What a letter takes on average at this size.
            x -= name.chars().count() as f64 * 6.0 + 6.0;
            let dash = if *dashed { " dash" } else { "" };
            let _ = writeln!(
                self.out,
                "<path class=\"line l{}{dash}\" d=\"M{:.1} {:.1}H{x:.1}\"/>",
                colour % COLOURS,
                x - 18.0,
                y - 4.0
            );
            x -= 30.0;
        }
    }
}
