package change

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestApply(t *testing.T) {
	for change, want := range map[string]string{
		`CMD ["a","b c"]`:                  `{"Cmd":["a","b c"]}`,
		`cmd echo  "x"`:                    `{"Cmd":["/bin/sh","-c","echo  \"x\""]}`,
		`ENV A=1 B="2 3" C=$A D=${X:-y}`:   `{"Env":["P=/bin","A=1","B=2 3","C=","D=y"]}`,
		`ENV P=$P:/x`:                      `{"Env":["P=/bin:/x"]}`,
		`ENV A the  rest`:                  `{"Env":["P=/bin","A=the  rest"]}`,
		`ENV A='$P' B=\$P`:                 `{"Env":["P=/bin","A=$P","B=$P"]}`,
		"LABEL a=b \\\n c=\"d e\"":         `{"Labels":{"a":"b","c":"d e"}}`,
		`EXPOSE 80-82/udp`:                 `{"ExposedPorts":{"80/udp":{},"81/udp":{},"82/udp":{}}}`,
		`WORKDIR a/../b c`:                 `{"WorkingDir":"/b c"}`,
		`HEALTHCHECK NONE`:                 `{"Healthcheck":{"Test":["NONE"]}}`,
		`VOLUME ["/a b","/c"]`:             `{"Volumes":{"/a b":{},"/c":{}}}`,
		`USER $P`:                          `{"User":"/bin"}`,
		"# nothing\n\nUSER x":              `{"User":"x"}`,
		`FOO bar`:                          `FOO is not a valid change command`,
		`HEALTHCHECK --nope=1 CMD x`:       `unknown flag: --nope`,
		`HEALTHCHECK --interval=-1s CMD x`: `interval "interval" cannot be less than 1ms`,
		`HEALTHCHECK FOO`:                  `unknown type "FOO" in HEALTHCHECK (try CMD)`,
		`ONBUILD ONBUILD RUN x`:            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
		`ONBUILD FROM x`:                   `FROM isn't allowed as an ONBUILD trigger`,
		`ENV a=1 b`:                        `Syntax error - can't find = in "b". Must be of the form: name=value`,
		`ENV a="x`:                         `unexpected end of statement while looking for matching double-quote`,
		`USER a b`:                         `USER requires exactly one argument`,
		`VOLUME [""]`:                      `VOLUME specified can not be an empty string`,
	} {
		c := &config{}
		c.Env = []string{"P=/bin"}
		got := ""
		if err := Apply(c, []string{change}); err != nil {
			got = err.Error()
		} else {
			if !strings.Contains(want, "Env") {
				c.Env = nil
			}
			b, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			got = string(b)
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", change, got, want)
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add(`ENV A="$B${C:-d}" \`)
	f.Add(`HEALTHCHECK --interval=1s CMD ["a"]`)
	f.Fuzz(func(t *testing.T, text string) {
		Apply(&config{}, []string{text}) //nolint:errcheck // it must not panic
	})
}
