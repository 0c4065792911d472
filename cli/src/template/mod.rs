//! Go's text/template, as far as `--format` uses it: fields, pipelines, variables, `if`, `range`,
//! `with`, trimmed space, templates in templates (`define`, `template`, `block`), and the functions of
//! Go and of docker's command line.
//!
//! Documents are JSON. So a field that is not there is an error, unless docker's types have it (see
//! `absent`), and what is an object prints as `map[key:value]`.

mod absent;
mod escape;
mod eval;
mod functions;
mod labels;
mod lex;
mod parse;
mod structs;

use serde_json::Value;

use crate::error::{CliError, Result};

pub(crate) use escape::quoted;
pub(crate) use labels::{heads_of_labels, shown, with_labels};

/// A template that was read.
#[derive(Debug)]
pub(crate) struct Template {
    text: String,
    parsed: parse::Parsed,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is no template, or uses what is not built.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let unescaped = unescape(text);
        let parsed = parse::parse(&unescaped).map_err(|why| failed(text, &why))?;
        Ok(Self {
            text: text.to_owned(),
            parsed,
        })
    }

    /// Fills it from a JSON document.
    ///
    /// # Errors
    /// A field that is not there, an argument that does not fit.
    pub(crate) fn render(&self, document: &Value) -> Result<String> {
        eval::run(&self.parsed, document).map_err(|why| failed(&self.text, &why))
    }
}

/// Fills a template from a JSON document.
pub(crate) fn render(template: &str, document: &Value) -> Result<String> {
    Template::parse(template)?.render(document)
}

fn failed(template: &str, why: &str) -> CliError {
    CliError::usage(format!("template {template:?}: {why}"))
}

/// Shells leave these as they are.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "State": {"ExitCode": 7, "OOMKilled": true, "Error": ""},
            "Name": "/x", "L": ["a", "b"], "None": null, "Big": 1234567890123u64, "F": 1.5,
            "Config": {"Labels": {"b.c": "2", "a": "1"}, "Env": []},
            "NetworkSettings": {
                "Networks": {"n-1": {"IPAddress": "10.0.0.2"}, "m": {"IPAddress": "10.1.0.2"}},
                "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": null},
            },
            "Mounts": [{"Type": "bind", "Source": "/a"}, {"Type": "volume", "Source": "/b"}],
        })
    }

    fn text(template: &str) -> String {
        render(template, &document()).unwrap()
    }

    #[test]
    fn fields_and_json() {
        assert_eq!(text("{{.State.OOMKilled}} {{ .State.ExitCode }}"), "true 7");
        assert_eq!(text("n={{.Name}}\\t{{json .L}}"), "n=/x\t[\"a\",\"b\"]");
        assert_eq!(
            text("{{.L}} {{.None}} {{.Big}} {{.F}}"),
            "[a b] <nil> 1234567890123 1.5"
        );
        assert_eq!(text("{{json .}}"), document().to_string());
        assert_eq!(text("{{.Config.Labels}}"), "map[a:1 b.c:2]");
        assert_eq!(text("{{println .Name}}{{$.Name}}"), "/x\n/x");
    }

    #[test]
    fn dockers_spelling_of_a_field_is_taken_too() {
        let document = json!({"Id": "x", "Server": {"ApiVersion": "1.51"}, "Labels": {"a": "1"}});
        let text = |template| render(template, &document);
        assert_eq!(text("{{.ID}} {{.Server.APIVersion}}").unwrap(), "x 1.51");
        assert!(text("{{.id}}").is_err());
        assert_eq!(text("{{.Labels.A}}").unwrap(), "<no value>");
    }

    #[test]
    fn what_users_of_docker_write() {
        for (template, expected) in [
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "10.1.0.2 10.0.0.2 "),
            ("{{(index .NetworkSettings.Networks \"n-1\").IPAddress}}", "10.0.0.2"),
            ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{index .Config.Labels \"b.c\"}}|{{index .Config.Labels \"no\"}}|", "2||"),
            (
                "{{range $p, $conf := .NetworkSettings.Ports}}{{if $conf}}{{$p}} -> {{(index $conf 0).HostPort}}{{end}}{{end}}",
                "80/tcp -> 8080",
            ),
            ("{{range $k, $v := .NetworkSettings.Networks}}{{$k}},{{end}}", "m,n-1,"),
            ("{{if .State.OOMKilled}}oom{{else}}fine{{end}}", "oom"),
            ("{{if not .State.OOMKilled}}a{{else if eq .State.ExitCode 7}}b{{else}}c{{end}}", "b"),
            ("{{with .Config.Env}}some{{else}}none{{end}}", "none"),
            ("{{range .Config.Env}}{{.}}{{else}}empty{{end}}", "empty"),
            ("{{join .L \",\"}} {{.L | len}} {{len .Mounts}}", "a,b 2 2"),
            ("{{upper .Name}}{{lower \"AB\"}}{{title \"ab\"}}", "/XabAb"),
            ("{{slice .Name 1}} {{truncate \"abcdef\" 3}} {{pad .Name 1 2}}|", "x abc  /x  |"),
            ("{{printf \"%s=%d %v %q %5.1f|%-4s|\" .Name .State.ExitCode .State.OOMKilled .Name .F \"x\"}}", "/x=7 true \"/x\"   1.5|x   |"),
            ("{{range .Mounts}}{{- if eq .Type \"bind\" \"tmpfs\" -}} {{.Source}} {{- end -}}{{end}}", "/a"),
            ("{{$x := .Name}}{{$x}} {{- /* nothing */ -}} {{range .L}}{{$x}}{{.}}{{end}}", "/x/xa/xb"),
            ("{{$n := 0}}{{range .L}}{{$n = len .}}{{end}}{{$n}}", "1"),
            ("{{and .Name .State.Error}}|{{or .State.Error .Name}}", "|/x"),
            ("{{range split \"a:b:c\" \":\"}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}", "ac"),
            ("{{json .Config.Labels | printf \"%s\"}}", "{\"a\":\"1\",\"b.c\":\"2\"}"),
            ("{{if and (gt .State.ExitCode 1) (le .F 1.5)}}yes{{end}}{{ne .Name `y`}}", "yestrue"),
            ("{{\"a\\\"b\"}}{{true}}{{-3}}", "a\"btrue-3"),
            ("{{print 1 2 \"a\" \"b\" 3}} {{print}}{{'a'}}{{'\\n'}}", "1 2ab3 9710"),
            ("{{html \"<a&'\\\"\"}} {{urlquery \"a b/ü\"}}", "&lt;a&amp;&#39;&#34; a+b%2F%C3%BC"),
            ("{{js \"it's <b>\\n\"}}", "it\\'s \\u003Cb\\u003E\\u000A"),
            ("{{len (split \"n1\" \"\")}} {{index .None \"x\"}}", "2 "),
            ("{{and .None (eq .None.Status 1)}}|{{or .Name (eq .None.Status 1)}}", "<no value>|/x"),
            ("{{template \"x\" .State}}{{define \"x\"}}<{{.ExitCode}}{{$.OOMKilled}}>{{end}}", "<7true>"),
            ("{{block \"x\" .L}}{{range .}}{{.}}-{{end}}{{end}}{{template \"x\" .L}}", "a-b-a-b-"),
            ("{{define \"x\"}}{{.}}{{end}}{{template \"x\"}}|{{range .L}}{{template \"x\" .}}{{end}}", "<no value>|ab"),
            ("{{printf \"%q %v\" \"a'\\\"\\\\ü\\t\" .None}}", "\"a'\\\"\\\\ü\\t\" <nil>"),
        ] {
            let shown = render(template, &document());
            assert_eq!(shown.map_err(|error| error.to_string()).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_docker_leaves_out_is_empty() {
        let document = json!({
            "HostConfig": {"RestartPolicy": {"Name": "no"}, "PidsLimit": null},
            "State": {"OOMKilled": false},
            "Config": {"AttachStdin": false, "Labels": {"a": "1"}, "Entrypoint": null, "Volumes": null},
            "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "1", "Aliases": null}}, "Ports": {}},
            "Mounts": [{"Type": "bind", "Source": "/a", "Destination": "/b"}],
        });
        for (template, expected) in [
            ("{{.State.Health}}", "<nil>"),
            ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
            ("{{with .State.Health}}{{.Status}}{{else}}none{{end}}", "none"),
            ("{{if and .State.Health (eq .State.Health.Status \"healthy\")}}a{{else}}b{{end}}", "b"),
            ("{{with .State}}{{.Health}}{{end}}", "<nil>"),
            ("{{json .State.Health}}{{json .State}}", "null{\"OOMKilled\":false}"),
            ("{{.Config.ExposedPorts}} {{.Config.Healthcheck}} {{.Config.StopTimeout}}", "map[] <nil> <nil>"),
            ("{{.HostConfig.Init}} {{.SizeRw}}", "<nil> <nil>"),
            ("{{.Config.StopSignal}}|{{.Config.Entrypoint}}|{{.Config.Volumes}}|{{.HostConfig.PidsLimit}}", "|[]|map[]|<nil>"),
            ("{{json .Config.Entrypoint}}", "null"),
            ("{{range .NetworkSettings.Networks}}{{.Aliases}}{{.IPAMConfig}}{{.MacAddress}}{{end}}", "[]<nil>"),
            ("{{.NetworkSettings.Networks.bridge.NetworkID}}", "1"),
            ("{{range .Mounts}}{{.Name}}{{.Source}}{{end}}", "/a"),
            ("{{.Config.Labels.a}} {{.Config.Labels.b}}", "1 <no value>"),
            ("{{range $port, $to := .Config.ExposedPorts}}x{{else}}none{{end}}", "none"),
        ] {
            let shown = render(template, &document);
            assert_eq!(shown.map_err(|error| error.to_string()).as_deref(), Ok(expected), "{template}");
        }
        for bad in [
            "{{.Health}}",
            "{{.State.Healthy}}",
            "{{.State.Health.Status}}",
        ] {
            assert!(render(bad, &document).is_err(), "{bad}");
        }
    }

    #[test]
    fn structs_are_printed_as_gos() {
        let document = json!({
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": null},
            "Mounts": [{"Type": "bind", "Source": "/a", "Destination": "/b", "Mode": "", "RW": true, "Propagation": "rprivate"}],
            "IPAM": {"Driver": "default", "Options": null, "Config": [{"Subnet": "10.0.0.0/8", "Gateway": "10.0.0.1"}]},
            "Labels": {"Type": "x", "other": "y"},
        });
        for (template, expected) in [
            ("{{.RestartPolicy}}", "{no 0}"),
            ("{{.LogConfig}}", "{json-file map[max-size:1m]}"),
            ("{{.Ports}}", "map[80/tcp:[{0.0.0.0 8080}] 81/tcp:[]]"),
            ("{{.Mounts}}", "[{bind  /a /b   true rprivate}]"),
            (
                "{{.IPAM}}",
                "{default map[] [{10.0.0.0/8  10.0.0.1 map[]}]}",
            ),
            ("{{.Labels}}", "map[Type:x other:y]"),
        ] {
            assert_eq!(render(template, &document).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (template, part) in [
            ("{{.Nope}}", "no field \"Nope\""),
            ("{{.Name.First}}", "First"),
            ("{{range .L}}", "not closed"),
            ("{{end}}", "end"),
            ("{{else}}", "else"),
            ("{{.X", "not closed"),
            ("{{}}", "empty"),
            ("{{nosuch .L}}", "nosuch"),
            ("{{$y}}", "$y"),
            ("{{index .L 9}}", "out of range"),
            ("{{index .L \"x\"}}", "index"),
            ("{{range .Name}}{{end}}", "range"),
            ("{{define \"x\"}}", "not closed"),
            ("{{define x}}{{end}}", "name"),
            ("{{if true}}{{define \"x\"}}{{end}}{{end}}", "define"),
            ("{{template \"x\"}}", "no template"),
            ("{{block \"x\"}}{{end}}", "value"),
            (
                "{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}",
                "deep",
            ),
            (
                "{{$y := 1}}{{define \"x\"}}{{$y}}{{end}}{{template \"x\"}}",
                "$y",
            ),
            ("{{\"a}}", "not closed"),
            ("{{(.L}}", ")"),
            ("{{len}}", "len"),
            ("{{.L | }}", "missing"),
            ("{{slice .Name 9}}", "out of range"),
            ("{{printf \"%d\"}}", "%d"),
            ("{{eq .L .L}}", "compare"),
            ("{{#}}", "#"),
        ] {
            let error = render(template, &document()).unwrap_err().to_string();
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    #[test]
    fn no_template_and_no_document_brings_it_down() {
        let nested = format!("{}x{}", "{{if true}}".repeat(2000), "{{end}}".repeat(2000));
        assert!(render(&nested, &document()).is_err());
        let parentheses = format!("{{{{{}.{}}}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(render(&parentheses, &document()).is_err());
        for end in 0..40 {
            let whole = "{{- range $k, $v := (index .L 0) | len -}}";
            let _ = whole.get(..end).map(|part| render(part, &document()));
        }
        assert!(render("{{printf \"%999999999d\" 1}}", &document()).is_err());
    }
}
