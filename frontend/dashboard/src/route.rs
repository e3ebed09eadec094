//! The addresses of the page: which service, which instance's details, what is searched.
//!
//! Pure. A small one of our own: there are two routes, a name may hold `/` and anything else, and `leptos_router` with
//! its matching, nesting and second copy of the HTTP library weighs more than all of the page's components.

/// Where the page stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// The service that is shown; `None` for the overview.
    pub service: Option<String>,
    /// The key whose details are open.
    pub key: Option<String>,
    /// What is searched.
    pub search: String,
}

impl Address {
    /// The address of a service's page.
    pub fn service(name: &str) -> Self {
        Self { service: Some(name.to_owned()), ..Self::default() }
    }

    /// Reads the path below the base (without its leading `/`) and the query (without its `?`). Any address is one.
    pub fn parse(path: &str, query: &str) -> Self {
        let service = path.strip_prefix("services/").filter(|name| !name.is_empty()).map(|name| decode(name, false));
        let mut address = Self { service, ..Self::default() };
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "key" => address.key = Some(decode(value, true)).filter(|key| !key.is_empty()),
                "q" => address.search = decode(value, true),
                _ => {}
            }
        }
        address
    }

    /// The address relative to the page's base, as a link has it.
    pub fn href(&self) -> String {
        let mut href = match &self.service {
            Some(name) => ["services/", &encode(name)].concat(),
            None => "./".to_owned(),
        };
        let mut mark = '?';
        for (name, value) in [("key=", self.key.as_deref().unwrap_or_default()), ("q=", &self.search)] {
            if !value.is_empty() {
                href.push(mark);
                href.push_str(name);
                href.push_str(&encode(value));
                mark = '&';
            }
        }
        href
    }
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
pub fn encode(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    out
}

/// Undoes [`encode`]; in a query `+` is a space. What is no escape stands for itself.
fn decode(text: &str, query: bool) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
                continue;
            }
            (b'+', ..) if query => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_reads_back_as_it_was_written() {
        for name in ["helloworld", "beer.shop/order.service", "支付 ✓", "a?b#c%2F&d=e+f", "%"] {
            let address = Address {
                service: Some(name.to_owned()),
                key: Some(["/microservices/", name, "/1"].concat()),
                search: "state:late !zone:b + &".to_owned(),
            };
            let href = address.href();
            let (path, query) = href.split_once('?').unwrap();
            assert!(!path["services/".len()..].contains(['/', '?', '#', ' ']), "{href}");
            assert_eq!(Address::parse(path, query), address);
        }
        assert_eq!(Address::service("beer.shop/order.service").href(), "services/beer.shop%2Forder.service");
    }

    #[test]
    fn any_address_is_one() {
        assert_eq!(Address::parse("", ""), Address::default());
        assert_eq!(Address::parse("services/", "").service, None);
        assert_eq!(Address::parse("services/a/b", "").service.as_deref(), Some("a/b"));
        assert_eq!(Address::parse("nowhere", "q=a+b&x&key=").search, "a b");
        assert_eq!(Address::parse("services/%zz%", "").service.as_deref(), Some("%zz%"));
        assert_eq!(Address::default().href(), "./");
    }
}
