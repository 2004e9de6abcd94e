//! How each format says which further files are read.

use crate::catalogue::{Rule, rule};
use crate::format::Format::{File, Program, Words};
use crate::includes::{Base, Include, Reads, Syntax};

/// A line of words and names of files that are read in the same way.
const fn words(words: &'static str, base: Base) -> Include {
    Include { syntax: Syntax::Words(words), base, reads: Reads::Same }
}

const fn others(syntax: Syntax, base: Base, rules: &'static [Rule]) -> Include {
    Include { syntax, base, reads: Reads::Others(rules) }
}

/// Formats in which names are absolute, or mean what nobody can say.
const ROOT: Base = Base::At(&["/"]);

pub(super) const SSHD: &[Include] = &[words("Include", Base::At(&["/etc/ssh"]))];
pub(super) const SSH: &[Include] = &[words("Include", Base::HomeOr("/.ssh", "/etc/ssh"))];
pub(super) const SUDOERS: &[Include] = &[
    words("@include", Base::File),
    words("#include", Base::File),
    words("@includedir", Base::File),
    words("#includedir", Base::File),
];
pub(super) const PAM: &[Include] = &[
    words("@include", Base::At(PAM_DIRECTORIES)),
    words("* include", Base::At(PAM_DIRECTORIES)),
    words("* substack", Base::At(PAM_DIRECTORIES)),
];
/// The same after the name of a service.
pub(super) const PAM_CONF: &[Include] =
    &[words("* * include", Base::At(PAM_DIRECTORIES)), words("* * substack", Base::At(PAM_DIRECTORIES))];
const PAM_DIRECTORIES: &[&str] = &["/etc/pam.d", "/usr/lib/pam.d", "/usr/etc/pam.d"];

pub(super) const IFUPDOWN: &[Include] = &[words("source", Base::File), words("source-dir*", Base::File)];
/// `include NAME`, as the loader, logrotate, xinetd, monit, nftables, ipsec, redis and PostgreSQL have it.
pub(super) const INCLUDE: &[Include] = &[words("include", Base::File)];
pub(super) const XINETD: &[Include] = &[words("include", ROOT), words("includedir", ROOT)];
pub(super) const APT: &[Include] =
    &[words("#include", ROOT), words("dir::etc::parts", Base::At(&["/etc/apt"]))];
pub(super) const RSYSLOG: &[Include] =
    &[words("$IncludeConfig", ROOT), Include { syntax: Syntax::Call, base: ROOT, reads: Reads::Same }];
pub(super) const SYSLOG_NG: &[Include] = &[words("@include", Base::At(&["/etc/syslog-ng"]))];
pub(super) const SNMPD: &[Include] = &[words("includeFile", Base::File), words("includeDir", Base::File)];
pub(super) const SUPERVISORD: &[Include] =
    &[Include { syntax: Syntax::Key("include", "files"), base: Base::File, reads: Reads::Same }];
pub(super) const MYSQL: &[Include] = &[words("!include", ROOT), words("!includedir", ROOT)];
pub(super) const POSTGRESQL: &[Include] =
    &[words("include", Base::File), words("include_if_exists", Base::File), words("include_dir", Base::File)];
pub(super) const NRPE: &[Include] = &[words("include", ROOT), words("include_dir", ROOT)];
/// collectd has a section of one line; Icinga, munin and others have words.
pub(super) const MONITORING: &[Include] = &[
    words("include", Base::File),
    words("<Include", Base::File),
    words("include_recursive", Base::File),
    words("includedir", Base::File),
];
pub(super) const OPENSSL: &[Include] = &[words(".include", Base::File)];
/// What sway and i3 include, and what Hyprland sources.
pub(super) const DESKTOP: &[Include] = &[words("source", Base::File), words("include", Base::File)];

pub(super) const GIT: &[Include] = &[
    Include { syntax: Syntax::Key("include", "path"), base: Base::File, reads: Reads::Same },
    Include { syntax: Syntax::Key("includeIf*", "path"), base: Base::File, reads: Reads::Same },
    others(Syntax::Key("core", "hooksPath"), Base::WorkTree, &[rule("git", &["/*"], Program)]),
    others(Syntax::Key("init", "templateDir"), ROOT, &[rule("git", &["/hooks/*"], Program)]),
];

const SOURCE: Include = Include { syntax: Syntax::Source, base: Base::Home, reads: Reads::Same };
pub(super) const SHELL: &[Include] = &[SOURCE];
pub(super) const ZSH: &[Include] = &[others(Syntax::Variable("ZDOTDIR"), ROOT, ZDOTDIR), SOURCE];
const ZDOTDIR: &[Rule] = &[rule("zsh", &["/.{zshenv,zprofile,zshrc,zlogin,zlogout}"], File)];

/// What a web server runs for a request, wherever its roots are.
const PAGES: &[Rule] = &[
    rule("webshell", &["/**/*.{php,phtml,php5,php7,phar,jsp,jspx,cgi,pl,py,asp,aspx,sh}"], File),
    rule("webconf", &["/**/.{htaccess,user.ini}"], Words(super::services::OVERRIDES)),
];
const PROGRAMS: &[Rule] = &[rule("webshell", &["/**"], File)];

const APACHE_ROOT: Base = Base::At(&["/etc/apache2", "/etc/httpd"]);

const fn apache(words: &'static str, rules: &'static [Rule]) -> Include {
    others(Syntax::Words(words), APACHE_ROOT, rules)
}

pub(super) const APACHE: &[Include] = &[
    Include { syntax: Syntax::Words("Include"), base: APACHE_ROOT, reads: Reads::SameBelow },
    Include { syntax: Syntax::Words("IncludeOptional"), base: APACHE_ROOT, reads: Reads::SameBelow },
    apache("DocumentRoot", PAGES),
    apache("VirtualDocumentRoot", PAGES),
    apache("Alias *", PAGES),
    apache("AliasMatch *", PAGES),
    apache("ScriptAlias *", PROGRAMS),
    apache("ScriptAliasMatch *", PROGRAMS),
    apache("VirtualScriptAlias", PROGRAMS),
    apache("WSGIScriptAlias *", PROGRAMS),
];
/// Where nginx was built to look for its pages.
const NGINX_ROOT: Base = Base::At(&["/usr/share/nginx", "/etc/nginx", "/var/lib/nginx"]);
pub(super) const NGINX: &[Include] = &[
    Include { syntax: Syntax::Statement("include"), base: Base::At(&["/etc/nginx"]), reads: Reads::Same },
    others(Syntax::Statement("root"), NGINX_ROOT, PAGES),
    others(Syntax::Statement("alias"), NGINX_ROOT, PAGES),
];
pub(super) const LIGHTTPD: &[Include] = &[
    words("include", Base::At(&["/etc/lighttpd"])),
    others(Syntax::Words("server.document-root"), NGINX_ROOT, PAGES),
    others(Syntax::Words("alias.url"), NGINX_ROOT, PAGES),
];
pub(super) const CADDY: &[Include] =
    &[words("import", Base::File), others(Syntax::Words("root *"), Base::File, PAGES)];
