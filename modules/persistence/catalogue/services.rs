//! Rules of package managers, the network, containers and servers.

use crate::catalogue::{Rule, includes, rule, strangers};
use crate::format::Format::{
    self, Apt, File, Has, Interfaces, JoinedLines, Keys, Lines, Logrotate, Program, Sources, Words,
};

/// What a directory of pages can set for itself.
pub(super) const OVERRIDES: &[&str] = &[
    "php_value",
    "php_admin_value",
    "SetHandler",
    "AddHandler",
    "AddType",
    "auto_prepend_file*",
    "auto_append_file*",
    "Options",
    "Action",
];

pub(super) const RULES: &[Rule] = &[
    // packages
    rule("apt-hook", &["/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*"], Apt).with(includes::APT),
    rule("dpkg-hook", &["/etc/dpkg/dpkg.cfg", "/etc/dpkg/dpkg.cfg.d/*", "~/.dpkg.cfg"], Format::Dpkg),
    rule(
        "dnf-hook",
        &[
            "/etc/dnf/{dnf.conf,plugins/*.conf,plugins/*.d/*,libdnf5-plugins/**}",
            "/etc/yum/pluginconf.d/*",
            "/etc/yum.conf",
            "/usr/lib/yum-plugins/*",
            "/usr/lib{,64}/{libdnf,libdnf5,dnf5}/plugins/*",
        ],
        Lines,
    ),
    rule(
        "rpm-hook",
        &["/etc/rpm/**", "~/.{rpmmacros,rpmrc}", "/usr/lib/rpm/macros.d/*", "/usr/lib{,64}/rpm-plugins/*"],
        JoinedLines,
    ),
    rule(
        "dnf-hook",
        &[
            "/usr/{local/,}lib{,64}/python3*/{site,dist}-packages/{dnf-plugins,libdnf_plugins}/*",
            "/usr/lib/zypp/plugins/*/*",
            "/usr/{local/,}lib/zypper/commands/*",
        ],
        File,
    ),
    rule("apk-hook", &["/etc/apk/commit_hooks.d/*"], Program),
    rule("apk-hook", &["/etc/apk/{world,repositories}", "/etc/apk/repositories.d/*"], Lines),
    rule(
        "pacman-hook",
        &["/etc/pacman.conf", "/{etc/pacman.d,usr/share/libalpm}/hooks/*.hook"],
        Keys(&["Exec"]),
    )
    .with(includes::INCLUDE),
    rule(
        "pacman-hook",
        &["/var/lib/snapd/snaps/*", "/var/lib/flatpak/{app,exports/share/applications}/*"],
        File,
    ),
    rule(
        "repo",
        &[
            "/etc/apt/{sources.list,sources.list.d/*,auth.conf,auth.conf.d/*,preferences,preferences.d/*}",
            "/etc/yum.repos.d/*",
            "/etc/zypp/repos.d/*",
        ],
        Sources,
    ),
    rule(
        "repo",
        &["/etc/apt/{trusted.gpg,trusted.gpg.d/*,keyrings/*}", "/etc/apk/keys/*", "/etc/pki/rpm-gpg/*"],
        File,
    ),
    rule(
        "needrestart",
        &[
            "/etc/needrestart/{needrestart.conf,hook.d/*,notify.d/*,restart.d/*,conf.d/*}",
            "/etc/etckeeper/{,*.d/*}*",
        ],
        File,
    ),
    // network
    rule(
        "nm-dispatcher",
        &[
            "/{etc,usr/lib}/NetworkManager/dispatcher.d/**",
            "/{etc,usr/lib}/networkd-dispatcher/*.d/*",
            "/etc/network/if-{up,pre-up,down,post-down}.d/*",
            "/etc/ppp/{ip-up,ip-down,ipv6-up,ipv6-down,ip-pre-up,auth-up,auth-down}{,.d/*}",
            "/etc/wpa_supplicant/*.sh",
            "/etc/resolvconf/update{,-libc}.d/*",
        ],
        Program,
    ),
    rule(
        "nm-dispatcher",
        &[
            "/etc/dhcp/dhclient-*-hooks{,.d/*}",
            "/etc/dhclient-*-hooks{,.d/*}",
            "/etc/dhcp/dhclient*.conf",
            "/etc/dhcpcd.{enter-hook,exit-hook}",
            "/lib/dhcpcd/dhcpcd-hooks/*",
            "/etc/udhcpc/**",
        ],
        File,
    ),
    rule(
        "nm-dispatcher",
        &["/etc/openvpn/**", "/etc/wireguard/*.conf", "/etc/strongswan.d/**", "/etc/ipsec.conf"],
        Words(&[
            "up",
            "down",
            "script-security",
            "route-up",
            "tls-verify",
            "client-connect",
            "learn-address",
            "auth-user-pass-verify",
            "ipchange",
            "plugin",
            "PostUp",
            "PreUp",
            "PostDown",
            "PreDown",
            "leftupdown*",
            "rightupdown*",
            "management-*",
        ]),
    )
    .with(includes::INCLUDE),
    rule("ifupdown", &["/etc/network/interfaces", "/etc/network/interfaces.d/*"], Interfaces)
        .with(includes::IFUPDOWN),
    rule("ifupdown", &["/{usr/,}sbin/{ifup,ifdown}-{local,pre-local}"], Program),
    rule(
        "ifupdown",
        &[
            "/etc/sysconfig/network-scripts/{ifup,ifdown}*",
            "/etc/sysconfig/network/{if-up.d,if-down.d,scripts}/*",
        ],
        Program,
    ),
    rule(
        "ifupdown",
        &["/etc/dnsmasq.conf", "/etc/dnsmasq.d/*"],
        Words(&["dhcp-script", "dhcp-luascript", "conf-script"]),
    ),
    rule("ifupdown", &["/etc/keepalived/**"], Words(&["notify*", "script", "*_script"]))
        .with(includes::INCLUDE),
    rule("inetd", &["/etc/rsyncd.conf", "/etc/rsyncd.d/*"], Keys(&["*exec"])),
    rule("inetd", &["/etc/samba/smb.conf"], Keys(&["*exec", "*command", "*script", "panic action"]))
        .with(includes::INCLUDE),
    rule("hosts-allow", &["/etc/hosts.allow", "/etc/hosts.deny"], Has(&["spawn", "twist"])),
    rule(
        "netfilter",
        &[
            "/etc/nftables.conf",
            "/etc/nftables.d/*",
            "/etc/iptables/*",
            "/etc/sysconfig/{nftables.conf,iptables,ip6tables}",
            "/etc/knockd.conf",
            "/etc/ufw/*.rules",
        ],
        JoinedLines,
    )
    .with(includes::INCLUDE),
    // containers, clouds, servers
    rule(
        "docker",
        &[
            "/var/lib/docker/containers/*/{hostconfig,config.v2}.json",
            "/var/lib/containers/storage/overlay-containers/containers.json",
        ],
        Format::Docker,
    ),
    rule("docker", &["/etc/docker/daemon.json"], File),
    rule("docker", &["/usr/{local/,}lib{,exec}/docker/cli-plugins/*", "~/.docker/cli-plugins/*"], Program),
    rule(
        "docker",
        &["/var/lib/lxc/*/config", "/etc/lxc/*.conf", "~/.local/share/lxc/*/config"],
        Keys(&["lxc.hook*", "lxc.start.auto", "lxc.init.cmd", "lxc.execute.cmd"]),
    ),
    rule("libvirt", &["/etc/libvirt/hooks/*", "/etc/libvirt/hooks/*.d/*"], Program),
    rule(
        "k8s",
        &[
            "/etc/kubernetes/{manifests/*,kubelet.conf}",
            "/var/lib/rancher/{k3s,rke2}/{server/manifests,agent/pod-manifests}/*",
            "/var/lib/kubelet/config.yaml",
            "/etc/cni/net.d/*",
            "/{etc,usr/share}/containers/oci/hooks.d/*",
            "/etc/containerd/{config.toml,conf.d/*}",
            "/etc/crio/{crio.conf,crio.conf.d/*}",
            "/opt/cni/bin/*",
        ],
        File,
    ),
    rule(
        "cloud-init",
        &["/var/lib/cloud/scripts/per-{boot,instance,once}/*", "/var/lib/cloud/instance{,s/*}/scripts/*"],
        Program,
    ),
    rule(
        "cloud-init",
        &["/var/lib/cloud/instance{,s/*}/user-data.txt", "/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/*"],
        Words(&["bootcmd:", "runcmd:", "- bootcmd", "write_files:"]),
    ),
    rule(
        "webshell",
        &[
            "/var/www/**/*.{php,phtml,php5,php7,phar,jsp,jspx,cgi,pl,py,asp,aspx,sh}",
            "/srv/{www,http}/**/*.{php,phtml,phar,jsp,jspx,cgi,pl,py,sh}",
            "/usr/lib/cgi-bin/*",
            "/{var/lib,usr/share,opt,srv}/{tomcat,jetty}*/webapps/**/*.{jsp,jspx,war}",
            "/usr/share/nginx/html/**/*.{php,jsp,cgi,py}",
            "~/public_html/**/*.{php,phtml,cgi,pl,py}",
        ],
        File,
    ),
    rule(
        "webconf",
        &["/var/www/**/.{htaccess,user.ini}", "/srv/{www,http}/**/.{htaccess,user.ini}"],
        Words(OVERRIDES),
    ),
    rule(
        "webconf",
        &[
            "/etc/apache2/{mods,conf,sites}-enabled/*",
            "/etc/apache2/{apache2,httpd}.conf",
            "/etc/apache2/{conf,vhosts}.d/*",
            "/etc/httpd/{conf,conf.d,conf.modules.d}/*",
        ],
        Words(&[
            "LoadModule",
            "LoadFile",
            "php_value",
            "php_admin_value",
            "SetHandler",
            "CustomLog",
            "ErrorLog",
            "WSGIScriptAlias",
            "ScriptAlias",
            "DocumentRoot",
            "Alias",
        ]),
    )
    .with(includes::APACHE),
    rule(
        "webconf",
        &["/etc/nginx/{nginx.conf,conf.d/*,http.d/*,sites-enabled/*,modules-enabled/*}"],
        Has(&["load_module", "_by_lua", "perl_modules", "perl ", "fastcgi_pass", "root ", "alias "]),
    )
    .with(includes::NGINX),
    rule(
        "webconf",
        &["/etc/lighttpd/lighttpd.conf", "/etc/lighttpd/{conf-enabled,conf.d,vhosts.d}/*"],
        Words(&["include_shell", "cgi.assign", "server.document-root", "alias.url"]),
    )
    .with(includes::LIGHTTPD),
    rule("webconf", &["/etc/squid/**"], Words(&["*_program", "external_acl_type", "auth_param"]))
        .with(includes::INCLUDE),
    rule("webconf", &["/etc/caddy/Caddyfile"], Words(&["root", "php_fastcgi", "exec"])).with(includes::CADDY),
    rule(
        "database",
        &[
            "/etc/mysql/{my.cnf,conf.d/*,mysql.conf.d/*,mariadb.conf.d/*,mariadb.cnf}",
            "/etc/my.cnf",
            "/etc/my.cnf.d/*",
        ],
        Keys(&["init_file", "init-file", "plugin_load*", "plugin-load*", "plugin_dir", "plugin-dir"]),
    )
    .with(includes::MYSQL),
    rule(
        "database",
        &[
            "/etc/postgresql/*/*/{postgresql.conf,conf.d/*}",
            "/var/lib/{pgsql,postgresql}/{*/,}{*/,}{postgresql.conf,postgresql.auto.conf}",
        ],
        Keys(&[
            "shared_preload_libraries",
            "local_preload_libraries",
            "session_preload_libraries",
            "*_command",
            "archive_library",
            "jit_provider",
            "dynamic_library_path",
        ]),
    )
    .with(includes::POSTGRESQL),
    rule("database", &["/etc/redis/*.conf", "/etc/redis.conf", "/etc/valkey/*.conf"], Words(&["loadmodule"]))
        .with(includes::INCLUDE),
    rule(
        "ca-store",
        &[
            "/usr/local/share/ca-certificates/**",
            "/etc/pki/ca-trust/source/{anchors/*,*.p12}",
            "/etc/ca-certificates/trust-source/anchors/*",
            "/usr/share/pki/trust/anchors/*",
        ],
        File,
    ),
    strangers("ca-store", &["/etc/ssl/certs/*"], File),
    rule(
        "cert-hook",
        &["/etc/letsencrypt/renewal-hooks/{pre,deploy,post}/*", "/etc/ca-certificates/update.d/*"],
        Program,
    ),
    rule("cert-hook", &["/etc/letsencrypt/cli.ini", "/etc/letsencrypt/renewal/*.conf"], Keys(&["*hook"])),
    // mail, logs, monitoring
    rule(
        "mail",
        &["~/.forward", "/etc/{aliases,procmailrc}", "/etc/mail/aliases", "/etc/postfix/aliases"],
        Has(&["|", ":include:"]),
    ),
    rule("mail", &["~/.qmail*", "/var/qmail/alias/.qmail*"], Has(&["|"])),
    rule("mail", &["/etc/postfix/master.cf"], Has(&["argv="])),
    rule("mail", &["~/.mailfilter", "/etc/maildroprc", "/etc/courier/maildroprc"], File),
    rule(
        "mail",
        &[
            "~/.{procmailrc,mailcap,maildroprc,sieve,dovecot.sieve,fetchmailrc,muttrc}",
            "~/.mutt/muttrc",
            "/etc/Muttrc.d/*",
        ],
        File,
    ),
    rule("logrotate", &["/etc/logrotate.conf", "/etc/logrotate.d/*"], Logrotate).with(includes::INCLUDE),
    rule(
        "syslog",
        &["/etc/rsyslog.conf", "/etc/rsyslog.d/*", "/etc/syslog.conf"],
        Has(&["omprog", "mmexternal", "^/", "improg", "module(load", "$ModLoad", "|/"]),
    )
    .with(includes::RSYSLOG),
    rule("syslog", &["/etc/syslog-ng/**"], Has(&["program("])).with(includes::SYSLOG_NG),
    rule(
        "monitoring",
        &["/etc/nagios/nrpe*.cfg", "/etc/nagios/nrpe.d/*", "/etc/nrpe.d/*"],
        Has(&["command["]),
    )
    .with(includes::NRPE),
    rule(
        "monitoring",
        &[
            "/usr/lib/check_mk_agent/{plugins,local}/**",
            "/usr/lib/zabbix/{alertscripts,externalscripts}/*",
            "/var/ossec/active-response/bin/*",
        ],
        Program,
    ),
    strangers("monitoring", &["/usr/lib{,64}/nagios/plugins/*"], Program),
    strangers(
        "monitoring",
        &["/etc/fail2ban/{action.d,filter.d,jail.d,fail2ban.d}/*", "/etc/fail2ban/{jail,fail2ban}.local"],
        Keys(&["action*", "ban*", "*command"]),
    ),
    rule("monitoring", &["/etc/zabbix/**"], Keys(&["UserParameter", "LoadModule", "AlertScriptsPath"]))
        .with(includes::INCLUDE),
    rule(
        "monitoring",
        &["/etc/snmp/**"],
        Words(&["extend*", "exec", "pass*", "sh", "dlmod", "proc*fix", "exec*fix"]),
    )
    .with(includes::SNMPD),
    rule(
        "monitoring",
        &[
            "/etc/{telegraf,collectd,osquery,salt,puppet,puppetlabs,chef,munin,icinga2}/**",
            "/etc/collectd.conf",
        ],
        Has(&["inputs.exec", "outputs.exec", "Exec ", "commands", "extensions_autoload", "command"]),
    )
    .with(includes::MONITORING),
];
