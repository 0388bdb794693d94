//! What a small team would write for Envoy: a call passes if its key stands in a table, else it is 401.
//!
//! The table is the plugin's configuration, one key a line. Keys are compared in clear, without limits or routing: less
//! than what the gate does, so that the comparison is not in its favour.

use std::{collections::HashSet, rc::Rc};

use proxy_wasm::{
    traits::{Context, HttpContext, RootContext},
    types::{Action, ContextType, LogLevel},
};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Keys::default()));
}}

#[derive(Default)]
struct Keys(Rc<HashSet<String>>);

impl Context for Keys {}

impl RootContext for Keys {
    fn on_configure(&mut self, _: usize) -> bool {
        let text = self.get_plugin_configuration().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        self.0 = Rc::new(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect());
        !self.0.is_empty()
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Call(Rc::clone(&self.0))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Call(Rc<HashSet<String>>);

impl Call {
    fn is_known(&self) -> bool {
        if let Some(key) = self.get_http_request_header("x-api-key") {
            return self.0.contains(key.as_str());
        }
        let line = self.get_http_request_header("authorization");
        line.and_then(|line| line.strip_prefix("Bearer ").map(|key| self.0.contains(key))).unwrap_or(false)
    }
}

impl Context for Call {}

impl HttpContext for Call {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        if self.is_known() {
            return Action::Continue;
        }
        self.send_http_response(401, vec![("content-type", "text/plain")], Some(b"no such key"));
        Action::Pause
    }
}
