//! A small writer of SVG: the few elements that a picture needs, with all text escaped.

use std::fmt::Write;

/// The look, for light and dark surroundings. The background is opaque, so that a viewer which
/// does not know the media query shows a light picture that can be read anywhere.
const STYLE: &str = "\
svg{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}\
.paper{fill:#fff}.ink{fill:#1f2328}.dim{fill:#59636e}.title{font-size:17px;font-weight:600}\
.grid{stroke:#d8dee4}.axis{stroke:#818b98}.grid,.axis{fill:none;shape-rendering:crispEdges}\
.live{fill:#b6c8d9;stroke:#9fb6ca;stroke-width:.8}.curve{fill:none;stroke-width:2;stroke-linejoin:round}\
.recorded{stroke:#6e7781;stroke-width:1.6;stroke-dasharray:5 3}\
.c0{stroke:#d1570c}.c1{stroke:#1f77c9}.c2{stroke:#0f9d6b}.c3{stroke:#b5539c}\
.c4{stroke:#b8860b}.c5{stroke:#3aa0b8}.c6{stroke:#7a5fd0}.c7{stroke:#c7384f}\
@media(prefers-color-scheme:dark){\
.paper{fill:#12161c}.ink{fill:#e6edf3}.dim{fill:#9aa4af}\
.grid{stroke:#2b323b}.axis{stroke:#6b7581}.live{fill:#36506a;stroke:#466787}.recorded{stroke:#a2abb5}\
.c0{stroke:#ff8a3d}.c1{stroke:#5aa9f0}.c2{stroke:#3ecf9a}.c3{stroke:#dd85c8}\
.c4{stroke:#e0b040}.c5{stroke:#6cc9de}.c6{stroke:#a892f0}.c7{stroke:#f0758a}}";

/// The classes `c0` to `c7` have a colour each.
pub(super) const COLOURS: usize = 8;

/// Where a text is in relation to its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture being written.
pub(super) struct Svg {
    out: String,
}

impl Svg {
    /// An empty picture of that size in pixels, with its background.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let mut svg = Svg { out: String::new() };
        svg.raw(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n\
             <style>{STYLE}</style>\n",
            escape(title)
        ));
        svg.rect("paper", 0.0, 0.0, width, height);
        svg
    }

    pub(super) fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        self.raw(format_args!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>\n"
        ));
    }

    pub(super) fn text(&mut self, class: &str, x: f64, y: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.raw(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
            escape(text)
        ));
    }

    /// A path by its commands, as in `M0 0H5`.
    pub(super) fn path(&mut self, class: &str, commands: &str) {
        self.raw(format_args!("<path class=\"{class}\" d=\"{commands}\"/>\n"));
    }

    pub(super) fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }

    fn raw(&mut self, text: std::fmt::Arguments<'_>) {
        // A String takes everything.
        let _ = self.out.write_fmt(text);
    }
}

/// Text as it may stand in XML. Control characters may not, whatever is written for them.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                escaped.push(char::REPLACEMENT_CHARACTER);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(escape("a<b & \"c\">"), "a&lt;b &amp; &quot;c&quot;&gt;");
        assert_eq!(escape("é\u{1b}[0m\n"), "é\u{fffd}[0m\u{fffd}");
    }
}
