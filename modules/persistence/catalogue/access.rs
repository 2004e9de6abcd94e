//! Rules of who gets in, and of what runs then: logins, privileges, shells, the desktop.

use crate::catalogue::{Rule, includes, rule, strangers};
use crate::format::Format::{
    Environment, File, Git, JoinedLines, Keys, Lines, Pam, Program, RunParts, Shells, Words,
};

pub(super) const RULES: &[Rule] = &[
    // login
    rule("pam-conf", &["/etc/pam.d/*", "/usr/lib/pam.d/*", "/usr/etc/pam.d/*"], Pam { service: false })
        .with(includes::PAM),
    rule("pam-conf", &["/etc/pam.conf"], Pam { service: true }).with(includes::PAM_CONF),
    rule("pam-conf", &["/usr/share/pam-configs/*"], File),
    rule("pam-conf", &["/etc/security/namespace.init"], Program),
    rule("pam-module", &["/{,usr/,usr/local/}lib{,64}/{,*-linux-gnu*/}security/*.so"], File),
    rule(
        "sshd-conf",
        &["/{etc,usr/etc}/ssh/sshd_config", "/{etc,usr/etc}/ssh/sshd_config.d/*"],
        Words(&[
            "AuthorizedKeysCommand",
            "AuthorizedKeysFile",
            "AuthorizedPrincipals*",
            "ForceCommand",
            "Subsystem",
            "TrustedUserCAKeys",
            "PermitRootLogin",
            "PermitUserEnvironment",
            "PermitEmptyPasswords",
            "HostKeyAgent",
            "StrictModes",
            "ChrootDirectory",
            "SecurityKeyProvider",
            "AcceptEnv",
            "SetEnv",
            "Match",
            "PAMServiceName",
            "AuthenticationMethods",
            "Sshd*Path",
        ]),
    )
    .with(includes::SSHD),
    rule("ssh-rc", &["~/.ssh/rc", "/etc/ssh/sshrc"], File),
    rule("ssh-rc", &["~/.ssh/environment"], Environment),
    rule(
        "ssh-client",
        &["~/.ssh/config", "/{etc,usr/etc}/ssh/ssh_config", "/{etc,usr/etc}/ssh/ssh_config.d/*"],
        Words(&[
            "ProxyCommand",
            "LocalCommand",
            "PermitLocalCommand",
            "KnownHostsCommand",
            "PKCS11Provider",
            "SecurityKeyProvider",
            "XAuthLocation",
            "Match",
            "RemoteCommand",
        ]),
    )
    .with(includes::SSH),
    rule(
        "rhosts",
        &["~/.{rhosts,shosts,k5login,k5users}", "/etc/{hosts.equiv,shosts.equiv}", "/etc/ssh/shosts.equiv"],
        Lines,
    ),
    rule("motd", &["/etc/update-motd.d/*"], RunParts),
    rule("motd", &["/{etc,run,usr/lib}/motd.d/*"], File),
    // privileges
    rule(
        "sudoers",
        &[
            "/etc/sudoers",
            "/etc/sudoers.d/*",
            "/usr/{local/,}etc/sudoers",
            "/usr/etc/sudoers.d/*",
            "/etc/sudoers-rs",
        ],
        JoinedLines,
    )
    .with(includes::SUDOERS),
    rule("sudo-plugin", &["/etc/sudo.conf"], Words(&["Plugin", "Path"])),
    rule(
        "polkit",
        &[
            "/{etc,run,usr/share,usr/local/share}/polkit-1/rules.d/*.rules",
            "/{etc,var/lib}/polkit-1/localauthority{,.conf.d}/{,*/}*.{pkla,conf}",
            "/{etc,run,usr/local/share,usr/share}/polkit-1/actions/*",
        ],
        File,
    ),
    rule("doas", &["/etc/doas.conf", "/etc/doas.d/*"], JoinedLines),
    rule(
        "adduser-hook",
        &[
            "/usr/local/sbin/{adduser,deluser}.local",
            "/usr/local/sbin/{useradd,userdel}.local",
            "/etc/shadow-maint/{useradd,userdel}-{pre,post}.d/*",
        ],
        Program,
    ),
    rule(
        "adduser-hook",
        &["/etc/login.defs"],
        Words(&["USERDEL_CMD", "FAKE_SHELL", "LOGIN_STRING", "ENV_FILE"]),
    ),
    rule("adduser-hook", &["/etc/shells"], Shells),
    rule("adduser-hook", &["/etc/skel/**"], File),
    // shells
    rule("profile", &["/etc/profile", "/etc/profile.d/*"], File).with(includes::SHELL),
    rule("bashrc", &["/etc/{bash.bashrc,bashrc,bash.bash_logout}", "/etc/bash/**", "/etc/bashrc.d/*"], File)
        .with(includes::SHELL),
    rule("user-rc", &["~/.{bashrc,profile,bash_logout,bash_aliases}", "~/.bashrc.d/*"], File)
        .with(includes::SHELL),
    rule("user-bashprofile", &["~/.bash_profile", "~/.bash_login"], File).with(includes::SHELL),
    rule(
        "zsh",
        &[
            "/etc/zsh/{zshenv,zprofile,zshrc,zlogin,zlogout,newuser.zshrc.recommended}",
            "/etc/{zshenv,zprofile,zshrc,zlogin,zlogout}",
            "~/{,.config/zsh/}.{zshenv,zprofile,zshrc,zlogin,zlogout}",
        ],
        File,
    )
    .with(includes::ZSH),
    rule(
        "fish",
        &[
            "/etc/fish/{config.fish,conf.d/*,functions/*,completions/*}",
            "/usr/{local/,}share/fish/vendor_conf.d/*",
            "~/.local/share/fish/vendor_conf.d/*",
            "~/.config/fish/{config.fish,conf.d/*,functions/*,completions/*}",
        ],
        File,
    )
    .with(includes::SHELL),
    rule(
        "csh",
        &[
            "/etc/csh.{cshrc,login,logout}",
            "/etc/csh/**",
            "/etc/{ksh.kshrc,mkshrc,suid_profile}",
            "~/.{cshrc,tcshrc,login,logout,kshrc,mkshrc}",
        ],
        File,
    )
    .with(includes::SHELL),
    rule(
        "bash-compl",
        &[
            "/etc/bash_completion",
            "/etc/bash_completion.d/*",
            "~/.bash_completion",
            "~/.bash_completion.d/*",
            "~/.config/bash_completion",
            "~/.local/share/bash-completion/**",
            "~/.inputrc",
            "/etc/inputrc",
        ],
        File,
    ),
    strangers("bash-compl", &["/usr/share/bash-completion/**", "/usr/local/share/bash-completion/**"], File),
    // desktop and tools
    rule(
        "xdg-autostart",
        &[
            "/etc/xdg/{,*/}autostart/*.desktop",
            "/usr/{local/,}share/{gnome/,}autostart/*.desktop",
            "~/.config/autostart/*.desktop",
        ],
        Keys(&["Exec"]),
    ),
    rule(
        "xsession",
        &[
            "/etc/X11/Xsession.d/*",
            "/etc/X11/{Xsession,Xreset,Xsession.options}",
            "/etc/X11/{xinit,Xreset.d,xdm}/**",
            "/etc/{gdm3,gdm}/{Init,PostLogin,PreSession,PostSession}/*",
            "/etc/sddm.conf",
            "/etc/sddm.conf.d/*",
            "/usr/share/sddm/scripts/*",
            "~/.{xprofile,xsession,Xsession,xsessionrc,xinitrc,xserverrc,Xclients,gnomerc,xinputrc}",
            "~/.config/xfce4/xinitrc",
            "~/.config/plasma-workspace/{env,shutdown}/*",
            "~/.kde*/Autostart/*",
            "~/.config/autostart-scripts/*",
        ],
        File,
    )
    .with(includes::SHELL),
    rule(
        "xsession",
        &["/etc/lightdm/{,lightdm.conf.d/}*.conf", "/usr/share/lightdm/lightdm.conf.d/*"],
        Keys(&["*-script", "session-wrapper", "greeter-wrapper"]),
    ),
    rule(
        "xsession",
        &[
            "/usr/{local/,}share/{xsessions,wayland-sessions}/*.desktop",
            "/etc/X11/sessions/*.desktop",
            "~/.local/share/{xsessions,wayland-sessions}/*.desktop",
        ],
        Keys(&["Exec"]),
    ),
    rule(
        "xsession",
        &[
            "/etc/{i3,sway}/config",
            "/etc/sway/config.d/*",
            "~/.config/{i3,sway}/config",
            "~/.i3/config",
            "~/.config/hypr/*.conf",
        ],
        Words(&["exec", "exec_always", "exec-once", "exec-shutdown"]),
    )
    .with(includes::DESKTOP),
    rule("xsession", &["/etc/xdg/lxsession/*/autostart", "~/.config/lxsession/*/autostart"], Lines),
    rule(
        "xsession",
        &[
            "/etc/xdg/{openbox,labwc}/{autostart,environment}",
            "~/.config/{openbox,labwc}/{autostart,environment}",
            "~/.config/{bspwm/bspwmrc,awesome/rc.lua,qtile/config.py,herbstluftwm/autostart,river/init}",
            "~/.fluxbox/startup",
        ],
        File,
    ),
    rule(
        "desktop-ext",
        &[
            "~/.local/share/gnome-shell/extensions/*/{metadata.json,extension.js}",
            "/usr/share/mozilla/extensions/**",
            "~/.config/*/NativeMessagingHosts/*",
            "~/.mozilla/native-messaging-hosts/*",
            "/etc/{opt/chrome,chromium}/native-messaging-hosts/*",
            "/usr/lib{,64}/mozilla/native-messaging-hosts/*",
            "~/.local/share/applications/*",
            "~/.config/mimeapps.list",
        ],
        File,
    ),
    rule(
        "editor",
        &[
            "~/.{vimrc,gvimrc,exrc,emacs,tmux.conf,screenrc,gdbinit,lessfilter,lesskey,wgetrc,curlrc,nanorc,Xresources,mailrc,psqlrc,my.cnf,lldbinit}",
            "~/.vim/{plugin,autoload,after,ftplugin,pack}/**",
            "~/.vim/vimrc",
            "~/.config/{nvim,tmux,vim}/**",
            "~/.emacs.d/{init.el,early-init.el}",
            "~/.gdbinit.d/*",
            "/etc/gdb/gdbinit.d/*",
            "~/.{hgrc,config/hg/hgrc}",
            "/etc/mercurial/**",
            "/etc/vim/{vimrc,vimrc.local,vimrc.tiny,gvimrc}",
            "/etc/{screenrc,tmux.conf,gdb/gdbinit,nanorc,wgetrc}",
            "/etc/emacs/**",
        ],
        File,
    ),
    rule(
        "editor",
        &["~/.gnupg/{gpg,gpgsm,gpg-agent,dirmngr,scdaemon}.conf"],
        Words(&["*-program", "photo-viewer"]),
    ),
    rule(
        "git",
        &[
            "/etc/gitconfig",
            "/usr/local/etc/gitconfig",
            "~/.gitconfig",
            "~/.config/git/config",
            "~/.git/config",
        ],
        Git,
    )
    .with(includes::GIT),
    rule(
        "git",
        &[
            "~/.git/hooks/*",
            "/usr/{local/,}share/git-core/templates/hooks/*",
            "~/.config/git/hooks/*",
            "~/.git-templates/hooks/*",
        ],
        Program,
    ),
];
