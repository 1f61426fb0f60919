//! Pages as one HTML file each, without any other resource: what `steer`, `evaluate` and `report` write for a browser.

use std::fmt::Display;

const STYLE: &str = include_str!("page/style.css");

/// Returns a page of a title, which is text, and a body, which is HTML.
#[must_use]
pub fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<div class=\"product\"><b>λ</b> lambda-dpo</div>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// Returns a plot, which is SVG, with a text below that says how to read it.
#[must_use]
pub fn figure(svg: &str, caption: &str) -> String {
    let caption =
        if caption.is_empty() { String::new() } else { format!("<figcaption>{}</figcaption>", escape(caption)) };
    format!("<figure>{svg}{caption}</figure>\n")
}

/// Returns a list of names and values, which are text.
#[must_use]
pub fn definitions(entries: &[(&str, String)]) -> String {
    let entry = |(name, value): &(&str, String)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value));
    format!("<dl>\n{}</dl>\n", entries.iter().map(entry).collect::<String>())
}

/// Returns text as HTML that shows it.
#[must_use]
pub fn escape(text: impl Display) -> String {
    let text = text.to_string();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_text_stays_text() {
        let title = "<script>\"a\" & 'b'</script>";
        let page = document(title, &figure("<svg></svg>", title));
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;").count(), 3);
    }

    #[test]
    fn a_page_asks_for_nothing_else() {
        let page = document("title", &definitions(&[("name", "value".to_owned())]));
        for resource in ["http", "src=", "url(", "@import", "<script"] {
            assert!(!page.contains(resource), "{resource}");
        }
    }
}
