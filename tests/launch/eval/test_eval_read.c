/* The annotation formats of benchmarks, in small files of their form; what is asked of the model; and what answers are worth. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "launch/eval/answers.h"
#include "launch/eval/tally.h"
#include "launch/eval/tasks/eval_read.h"
#include "router/request/request.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <math.h>
#include <string.h>

static const char *path_of(const char *name) { return um_arena_fmt(&arena, "%s/%s", dir, name); }

static um_status read_file(um_eval_task *t, const char *format, const char *name,
                           const char *annotations, um_err *err)
{
    um_eval_source from = {.format = format, .questions = path_of(name)};
    if (annotations != NULL) from.annotations = path_of(annotations);
    return um_eval_read(t, &from, &arena, err);
}

static void must_read(um_eval_task *t, const char *format, const char *name,
                      const char *annotations)
{
    um_err err = {0};
    if (read_file(t, format, name, annotations, &err) != UM_OK) fail_msg("%s", err.msg);
}

static void refused(const char *format, const char *name, const char *annotations, um_status want,
                    const char *word)
{
    um_eval_task t = {0};
    um_err err = {0};
    assert_int_equal(read_file(&t, format, name, annotations, &err), want);
    has(&err, word);
}

/* Everything of an item in one line. */
static const char *text_of(const um_eval_item *item)
{
    const char *s = um_arena_fmt(&arena, "%s|%s|%s|", item->id, item->context, item->question);
    for (int i = 0; i < item->n_media; i++) {
        const char *name = strstr(item->media[i].source, dir);
        s = um_arena_fmt(&arena, "%s%d:%s,", s, (int)item->media[i].modality,
                         name != NULL ? name + strlen(dir) + 1 : item->media[i].source);
    }
    s = um_arena_fmt(&arena, "%s|", s);
    for (int i = 0; i < item->n_options; i++)
        s = um_arena_fmt(&arena, "%s%s,", s, item->options[i]);
    s = um_arena_fmt(&arena, "%s|", s);
    for (int i = 0; i < item->n_refs; i++) s = um_arena_fmt(&arena, "%s%s,", s, item->refs[i]);
    return um_arena_fmt(&arena, "%s|%s", s, item->group);
}

static void item_is(const um_eval_task *t, size_t i, const char *want)
{
    assert_true(i < t->n);
    assert_string_equal(text_of(&t->items[i]), want);
}

/* --- images --- */

static void test_vqa(void **state)
{
    (void)state;
    um_eval_task t;
    folder_json(dir, "q.json",
                "{'data_subtype':'val2014','questions':[{'image_id':42,'question':'What?',"
                "'question_id':42001},"
                "{'image_id':7,'question':'Who?','question_id':7000}]}");
    folder_json(
        dir, "a.json",
        "{'annotations':[{'question_id':9,'answers':[]},{'question_id':42001,'answer_type':'other',"
        "'answers':[{'answer':'cat','answer_id':1},{'answer':'dog','answer_id':2}]}]}");
    must_read(&t, "vqa", "q.json", "a.json");
    assert_int_equal(t.metric, UM_METRIC_VQA);
    assert_int_equal(t.n, 1);
    assert_int_equal(t.left_out, 1);
    item_is(&t, 0, "42001||What?|1:val2014/COCO_val2014_000000000042.jpg,||cat,dog,|other");
    folder_text(dir, "COCO_val2014_000000000042.jpg", "x"); /* as some have them: in one folder */
    must_read(&t, "vqa", "q.json", "a.json");
    item_is(&t, 0, "42001||What?|1:COCO_val2014_000000000042.jpg,||cat,dog,|other");
    refused("vqa", "q.json", NULL, UM_E_USAGE, "annotations");
    refused("vqa", "a.json", "q.json", UM_E_DATA, "want {\"questions\"");
    refused("vqa", "none.json", "a.json", UM_E_DATA, "none.json");
}

static void test_aokvqa_textvqa(void **state)
{
    (void)state;
    um_eval_task t;
    folder_json(
        dir, "ao.json",
        "[{'image_id':461751,'question_id':'22M','question':'Why?','choices':['a','b','c','d'],"
        "'correct_choice_idx':2,'direct_answers':['x','x','y']},{'image_id':1,'question_id':'T','"
        "question':'?','choices':['a','b']}]");
    must_read(&t, "aokvqa", "ao.json", NULL);
    item_is(&t, 0, "22M||Why?|1:000000461751.jpg,||x,x,y,|");
    assert_int_equal(t.left_out, 1);
    must_read(&t, "aokvqa-choice", "ao.json", NULL);
    item_is(&t, 0, "22M||Why?|1:000000461751.jpg,|a,b,c,d,|c,|");
    assert_int_equal(t.items[0].right, 2);
    folder_json(dir, "bad.json", "[{'question_id':'Q','choices':['a'],'correct_choice_idx':1}]");
    refused("aokvqa-choice", "bad.json", NULL, UM_E_DATA,
            "question Q: the answer is none of its 1 options");
    folder_json(dir, "tv.json",
                "{'data':[{'question_id':34602,'image_id':'003a8ae2ef43b901','question':'"
                "brand?','answers':['nokia','toshiba']}]}");
    must_read(&t, "textvqa", "tv.json", NULL);
    item_is(&t, 0, "34602||brand?|1:train_images/003a8ae2ef43b901.jpg,||nokia,toshiba,|");
    refused("textvqa", "ao.json", NULL, UM_E_DATA, "want {\"data\"");
}

static void test_pope(void **state)
{
    (void)state;
    um_eval_task t;
    folder_json(dir, "pope.json",
                "{'question_id': 1, 'image': 'COCO_1.jpg', 'text': 'Is there a dog in "
                "the image?', 'label': 'yes'}\n"
                "{'question_id': 2, 'image': 'COCO_1.jpg', 'text': 'Is there a cat in "
                "the image?', 'label': 'no'}\n");
    must_read(&t, "pope", "pope.json", NULL);
    assert_int_equal(t.metric, UM_METRIC_YES_NO);
    item_is(&t, 0, "1||Is there a dog in the image?|1:COCO_1.jpg,||yes,|");
    item_is(&t, 1, "2||Is there a cat in the image?|1:COCO_1.jpg,||no,|");
}

#define PICTURE                                                                                    \
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+"                                \
    "M9QDwADhgGAWjR9awAAAABJRU5ErkJggg"

static void test_mmbench(void **state)
{
    (void)state;
    um_eval_task t;
    folder_text(
        dir, "mm.tsv",
        "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\n"
        "241\tWhich?\tnan\tred\tblue\tnan\tnan\tA\tcolour\t" PICTURE "\n"
        "1000241\t\"Which \"\"one\"\"?\"\t\"a\nhint\"\tblue\tred\tnan\tnan\tB\tcolour\t241\n"
        "7\tx\tnan\ty\tz\tnan\tnan\tnan\tcolour\t" PICTURE "\n");
    must_read(&t, "mmbench", "mm.tsv", NULL);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.left_out, 1);
    item_is(&t, 0, "241||Which?|1:" PICTURE ",|red,blue,|red,|colour");
    item_is(&t, 1, "1000241|a\nhint|Which \"one\"?|1:" PICTURE ",|blue,red,|red,|colour");
    folder_text(dir, "cut.tsv", "index\tquestion\timage\n1\t\"x");
    refused("mmbench", "cut.tsv", NULL, UM_E_DATA, "line 2: a quote that does not end");
    folder_text(dir, "few.tsv", "index\tquestion\timage\n1\tx\n");
    refused("mmbench", "few.tsv", NULL, UM_E_DATA, "line 2: 2 fields, the first row has 3");
    folder_text(dir, "columns.tsv", "index\ttext\n1\tx\n");
    refused("mmbench", "columns.tsv", NULL, UM_E_DATA, "no columns image and question");
    folder_text(dir, "gap.tsv",
                "index\tquestion\tA\tB\tC\tD\tanswer\timage\n"
                "1\tWhich?\tred\tnan\tblue\tgreen\tD\t" PICTURE "\n");
    must_read(&t, "mmbench", "gap.tsv", NULL); /* B lacks: the answer is still the text of D */
    item_is(&t, 0, "1||Which?|1:" PICTURE ",|red,blue,green,|green,|");
}

static void test_seed(void **state)
{
    (void)state;
    um_eval_task t;
    folder_json(dir, "seed.json",
                "{'question_type':{'Scene Understanding':1,'Action':10},'questions':["
                "{'answer':'B','choice_a':'1','choice_b':'2','choice_c':'3','choice_d':"
                "'4','data_id':'14_25','data_type':'image',"
                "'question':'How many?','question_id':'101669','question_type_id':1},"
                "{'answer':'A','choice_a':'1','choice_b':'2','choice_c':'3','choice_d':"
                "'4','data_id':'v.mp4','data_type':'video',"
                "'question':'What?','question_id':'5','question_type_id':10}]}");
    must_read(&t, "seed", "seed.json", NULL);
    item_is(&t, 0, "101669||How many?|1:SEED-Bench-image/14_25,|1,2,3,4,|2,|Scene Understanding");
    item_is(&t, 1, "5||What?|4:SEED-Bench-video/v.mp4,|1,2,3,4,|1,|Action");
}

/* --- speech, sounds, videos --- */

static void test_race(void **state)
{
    (void)state;
    um_eval_task t;
    folder_text(dir, "high2.wav", "x");
    folder_json(dir, "race.txt",
                "{'id':'high2.txt','article':'Long "
                "ago.','questions':['When?','Who?'],'options':[['now','then'],['I','you'"
                "]],'answers':['B','A']}\n"
                "{'id':'middle3.txt','article':'Text.','questions':['Q'],'options':[['a'"
                ",'b']],'answers':['A']}\n");
    must_read(&t, "race", "race.txt", NULL);
    assert_int_equal(t.n, 3);
    item_is(&t, 0, "high2.txt#0||When?|2:high2.wav,|now,then,|then,|high");
    item_is(&t, 1, "high2.txt#1||Who?|2:high2.wav,|I,you,|I,|high");
    item_is(&t, 2, "middle3.txt#0|Text.|Q||a,b,|a,|middle");
}

static void test_clothoaqa(void **state)
{
    (void)state;
    um_eval_task t;
    folder_text(dir, "clotho.csv",
                "file_name,QuestionText,answer,confidence\r\n"
                "a.wav,Is it raining?,yes,yes\r\na.wav,Is it raining?,no,maybe\r\n"
                "a.wav,\"What, if any, is heard?\",dog,yes\r\na.wav,Is it "
                "raining?,yes,yes\r\nb.wav,Is it raining?,no,yes\r\n");
    must_read(&t, "clothoaqa", "clotho.csv", NULL);
    assert_int_equal(t.n, 3);
    item_is(&t, 0, "a.wav#1||Is it raining?|3:a.wav,||yes,no,yes,|");
    item_is(&t, 1, "a.wav#2||What, if any, is heard?|3:a.wav,||dog,|");
    item_is(&t, 2, "b.wav#3||Is it raining?|3:b.wav,||no,|");
    folder_text(dir, "other.csv", "a,b\n1,2\n");
    refused("clothoaqa", "other.csv", NULL, UM_E_DATA, "want columns file_name");
}

static void test_videos(void **state)
{
    (void)state;
    um_eval_task t;
    folder_text(dir, "vid1301.avi", "x");
    folder_json(dir, "msvd.json",
                "[{'answer':'someone','id':39300,'question':'who is "
                "it?','video_id':1301},{'id':2,'question':'?','video_id':5}]");
    must_read(&t, "msvdqa", "msvd.json", NULL);
    item_is(&t, 0, "39300||who is it?|4:vid1301.avi,||someone,|");
    assert_int_equal(t.left_out, 1);
    folder_json(dir, "an_q.json",
                "[{'question_id':'v1_1','question':'is "
                "it?','video_name':'v1'},{'question_id':'v1_2','question':'?','video_name':'v1'}]");
    folder_json(dir, "an_a.json",
                "[{'question_id':'v1_3','answer':'x','type':1},{'question_id':'v1_1','"
                "answer':'yes','type':3}]");
    must_read(&t, "activitynetqa", "an_q.json", "an_a.json");
    assert_int_equal(t.n, 1);
    item_is(&t, 0, "v1_1||is it?|4:v_v1.mp4,||yes,|3");
    refused("activitynetqa", "an_q.json", NULL, UM_E_USAGE, "answers");
}

/* --- our own --- */

static void test_own(void **state)
{
    (void)state;
    um_eval_task t;
    folder_json(
        dir, "own.jsonl",
        "{'id':'v-1','question':'<image>\\n<audio>','media':{'image':'m/a.png','voice':['m/"
        "b.wav']},"
        "'answer':'The star is red.','key':'red','modality':'two modalities','task':'spoken "
        "colour','speaker':'rms'}\n"
        "{'id':'v-2','question':'What is it?','image':'m/c.png','answer':'A cat.','key':'cat'}\n");
    must_read(&t, "jsonl", "own.jsonl", NULL);
    assert_int_equal(t.metric, UM_METRIC_KEY);
    item_is(&t, 0,
            "v-1||<image>\n<audio>|1:m/a.png,2:m/b.wav,||red,The star is red.,|spoken colour");
    assert_string_equal(t.items[0].speaker, "rms");
    assert_string_equal(um_eval_modality(&t.items[0], &arena), "two modalities");
    assert_string_equal(um_eval_modality(&t.items[1], &arena), "image");
    assert_string_equal(
        t.items[1].messages,
        um_arena_fmt(
            &arena,
            "[{\"role\":\"user\",\"content\":[{\"image\":\"%s/m/c.png\"},\"\\nWhat is it?\"]}]",
            dir));
    folder_json(dir, "choice.jsonl",
                "{'question':'Q','options':['a','b'],'answer':'B'}\n{'question':'Q',"
                "'options':['a','b'],'answer':0}\n"
                "{'question':'Q','options':['a','b'],'answer':'b'}\n");
    must_read(&t, "jsonl", "choice.jsonl", NULL);
    assert_int_equal(t.metric, UM_METRIC_CHOICE);
    assert_true(t.items[0].right == 1 && t.items[1].right == 0 && t.items[2].right == 1);
    assert_non_null(strstr(t.items[0].messages, "Q\\nA. a\\nB. b"));
    folder_json(dir, "none.jsonl", "{'question':'Q'}\n");
    refused("jsonl", "none.jsonl", NULL, UM_E_DATA, "none.jsonl: line 1: has no answer");
    folder_json(dir, "blank.jsonl",
                "{'question':'?','answer':null}\n{'question':'?','answer':''}\n"
                "{'question':'?','answers':[]}\n{'question':'?','answers':['','the']}\n");
    must_read(&t, "jsonl", "blank.jsonl", NULL);
    assert_true(t.left_out == 3 && t.n == 1 && t.items[0].n_refs == 1);
    um_tally r;
    um_err err = {0};
    assert_int_equal(um_tally_of(&r, &t, &(const char *){NULL}, &arena, &err), UM_OK);
    assert_true(r.rows[0].score == 0); /* no answer is no match of an article */
    refused("jsonl", "q.json", NULL, UM_E_DATA, "line 1: want {\"question\"");
    refused("vqa3", "q.json", NULL, UM_E_USAGE, "vqa3: no such format, known are vqa aokvqa");
}

static void test_samples(void **state)
{
    (void)state;
    um_eval_task t;
    folder_json(dir, "s.json",
                "[{'id':'s','conversations':[{'from':'human','value':'<image> "
                "a'},{'from':'gpt','value':'b'},"
                "{'from':'human','value':'<video> "
                "c'},{'from':'gpt','value':'d'}],'image':'i.png','video':['0.png','1.png']}]");
    must_read(&t, "jsonl", "s.json", NULL);
    assert_int_equal(t.metric, UM_METRIC_EXACT);
    item_is(&t, 0, "s|| c|1:i.png,4:0.png,||d,|");
    assert_string_equal(
        t.items[0].messages,
        um_arena_fmt(&arena,
                     "[{\"role\":\"user\",\"content\":[{\"image\":\"%s/i.png\"},\" a\"]},"
                     "{\"role\":\"assistant\",\"content\":[\"b\"]},{\"role\":\"user\",\"content\":"
                     "[{\"video\":[\"%s/0.png\",\"%s/1.png\"]},\" c\"]}]",
                     dir, dir, dir));
    folder_json(dir, "u.json", "[{'conversations':[{'from':'human','value':'a'}]}]");
    refused("jsonl", "u.json", NULL, UM_E_DATA, "element 1: has no answer at its end");
}

/* What is wrong with choices, in the words of whoever wrote them. */
static void test_bad_choices(void **state)
{
    static const char *const bad[][2] = {
        {"{'id':'a','question':'?','options':['x',' '],'answer':0}",
         "question a: option B is empty"},
        {"{'id':'a','question':'?','options':['x'],'answer':'x'}", "1 options, want 2 to 26"},
        {"{'id':'a','question':'?','options':['x','y'],'answer':'z'}", "none of its 2 options"},
        {"{'id':'a','question':'?','options':['x','y'],'answer':2}", "none of its 2 options"},
        {"{'question':'?','options':['x','y'],'answer':0}\n{'id':'b','question':'?','answer':'x'}",
         "question b: has no options"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        folder_json(dir, "bad.jsonl", um_arena_fmt(&arena, "%s\n", bad[i][0]));
        refused("jsonl", "bad.jsonl", NULL, UM_E_DATA, bad[i][1]);
    }
}

/* A byte order mark, lines that end as on Windows, capitals, and letters beyond ASCII. */
static void test_odd_texts(void **state)
{
    (void)state;
    um_eval_task t;
    um_err err = {0};
    folder_json(dir, "odd.jsonl",
                "\xEF\xBB\xBF{'id':1,'question':'q\xC3\xA9','options':['\xE4\xB8\xAD','"
                "\xE4\xB8\xAD\xE6\x96\x87'],'answer':'B'}"
                "\r\n\r\n{'id':2,'question':'r','options':['x','y'],'answer':'x'}\r\n");
    must_read(&t, "jsonl", "odd.jsonl", NULL);
    assert_int_equal(t.n, 2);
    assert_true(t.items[0].right == 1 && t.items[1].right == 0);
    folder_json(dir, "yes.jsonl",
                "{'question':'?','answer':'Yes.'}\n{'question':'?','answer':'NO'}\n");
    um_eval_source from = {
        .format = "jsonl", .questions = path_of("yes.jsonl"), .metric = "yes-no"};
    assert_int_equal(um_eval_read(&t, &from, &arena, &err), UM_OK);
    assert_string_equal(t.items[0].refs[0], "yes");
    assert_string_equal(t.items[1].refs[0], "no");
    folder_json(dir, "maybe.jsonl", "{'question':'?','answer':'perhaps'}\n");
    from.questions = path_of("maybe.jsonl");
    assert_int_equal(um_eval_read(&t, &from, &arena, &err), UM_E_DATA);
    has(&err, "neither yes nor no");
}

/* --- asking --- */

/* How likely an option is, is asked without the options. */
static void test_score_requests(void **state)
{
    um_eval_task t;
    um_text line = {0};
    um_request r;
    um_err err = {0};
    (void)state;
    folder_json(dir, "choice.jsonl",
                "{'id':'c','question':'Which?\\n<image>','image':'m/a.png','options':['  red "
                "','dark red'],'answer':1}\n");
    must_read(&t, "jsonl", "choice.jsonl", NULL);
    um_eval_score_request(&line, &t.items[0], 0);
    um_request_source from = {
        .json = line.s, .n = line.n, .bytes = line.n, .folder = ".", .number = 1};
    if (um_request_parse(&r, &from, &arena, &err) != UM_OK) fail_msg("%s: %s", line.s, err.msg);
    assert_string_equal(r.score, "red");
    assert_true(r.n_items == 1 && r.n_turns == 2 && strstr(line.s, "dark") == NULL);
    says(t.items[0].messages, "B. dark red");
    must_read(&t, "mmbench", "mm.tsv", NULL);
    line.n = 0;
    um_eval_score_request(&line, &t.items[1], 1);
    says(line.s, "\"a\\nhint\\nWhich \\\"one\\\"?\"],\"score\":\"red\"}\n");
    um_text_free(&line);
}

/* A request that the routers read. */
static void request_reads(const um_eval_item *item, um_eval_metric metric, int media,
                          const char *word)
{
    um_text line = {0};
    um_request r;
    um_err err = {0};
    um_eval_request(&line, item, metric, 20);
    assert_int_equal(line.s[line.n - 1], '\n');
    um_request_source from = {
        .json = line.s, .n = line.n, .bytes = line.n, .folder = ".", .number = 1};
    if (um_request_parse(&r, &from, &arena, &err) != UM_OK) fail_msg("%s: %s", line.s, err.msg);
    assert_string_equal(r.id, item->id);
    assert_int_equal(r.max_new_tokens, 20);
    assert_int_equal(r.n_items, media);
    if (strstr(line.s, word) == NULL) fail_msg("%s lacks %s", line.s, word);
    um_text_free(&line);
}

static void test_requests(void **state)
{
    (void)state;
    um_eval_task t;
    must_read(&t, "vqa", "q.json", "a.json");
    request_reads(&t.items[0], t.metric, 1,
                  "What?\\nAnswer the question using a single word or phrase.");
    must_read(&t, "mmbench", "mm.tsv", NULL);
    request_reads(
        &t.items[1], t.metric, 1,
        "a\\nhint\\nWhich \\\"one\\\"?\\nA. blue\\nB. red\\nAnswer with the option's letter");
    must_read(&t, "jsonl", "own.jsonl", NULL);
    request_reads(&t.items[0], t.metric, 2, "\"messages\":[");
    must_read(&t, "jsonl", "s.json", NULL);
    request_reads(&t.items[0], t.metric, 2, "{\"video\":[");
}

/* --- what answers are worth --- */

static const um_tally_row *row_of(const um_tally *t, const char *by, const char *name)
{
    for (int i = 0; i < t->n_rows; i++)
        if (strcmp(t->rows[i].by, by) == 0 && strcmp(t->rows[i].name, name) == 0)
            return &t->rows[i];
    fail_msg("no row %s %s", by, name);
    return NULL;
}

static void test_tally(void **state)
{
    (void)state;
    um_eval_task t;
    um_tally r;
    um_err err = {0};
    folder_json(dir, "tally.jsonl",
                "{'question':'a','key':'red','answer':'x','task':'colour','modality':'image','"
                "speaker':'one','split':'val'}\n"
                "{'question':'b','key':'blue','answer':'x','task':'colour','modality':'speech'}\n"
                "{'question':'c','key':'3','answer':'x','task':'count','modality':'image'}\n"
                "{'question':'d','key':'dog','answer':'x','task':'count','modality':'image'}\n");
    must_read(&t, "jsonl", "tally.jsonl", NULL);
    static const char *const answers[] = {"It is red.", "red", "three of them", NULL};
    assert_int_equal(um_tally_of(&r, &t, answers, &arena, &err), UM_OK);
    assert_int_equal(r.n_rows, 1 + 2 + 2 + 1 + 1);
    const um_tally_row *all = row_of(&r, "all", ""), *image = row_of(&r, "modality", "image");
    assert_true(all->n == 4 && all->score == 0.5);
    assert_true(image->n == 3 && fabs(image->score - 2 / 3.0) < 1e-12);
    assert_true(image->interval.low > 0.2 && image->interval.high < 0.94);
    assert_true(row_of(&r, "group", "colour")->score == 0.5 &&
                row_of(&r, "speaker", "one")->n == 1 && row_of(&r, "split", "val")->n == 1);
    um_text json = {0};
    um_tally_json(&json, &r);
    says(json.s,
         "{\"metric\":\"key\",\"rows\":[{\"by\":\"all\",\"name\":\"\",\"n\":4,\"score\":0.5,");
    um_text_free(&json);
    must_read(&t, "pope", "pope.json", NULL);
    static const char *const yes_no[] = {"Yes.", "I see one"};
    assert_int_equal(um_tally_of(&r, &t, yes_no, &arena, &err), UM_OK);
    assert_true(r.rows[0].score == 0.5 && r.yes_no.true_yes == 1 && r.yes_no.false_yes == 1);
}

/* The rate is that of all words, not the mean of rates. */
static void test_tally_words(void **state)
{
    (void)state;
    um_eval_task t;
    um_tally r;
    um_err err = {0};
    folder_json(dir, "wer.jsonl",
                "{'question':'a','answer':'one two three four five "
                "six'}\n{'question':'b','answer':'one'}\n");
    um_eval_source from = {.format = "jsonl", .questions = path_of("wer.jsonl"), .metric = "wer"};
    assert_int_equal(um_eval_read(&t, &from, &arena, &err), UM_OK);
    static const char *const answers[] = {"one two three four five six", "two"};
    assert_int_equal(um_tally_of(&r, &t, answers, &arena, &err), UM_OK);
    assert_true(fabs(r.rows[0].score - 1 / 7.0) < 1e-12);
    from.metric = "words";
    assert_int_equal(um_eval_read(&t, &from, &arena, &err), UM_E_USAGE);
    has(&err, "words: no such metric");
}

/* Answers find their questions by id, whatever their order; what is no answer is passed over. */
static void test_answers(void **state)
{
    (void)state;
    um_eval_task t;
    um_answers a;
    um_err err = {0};
    must_read(&t, "pope", "pope.json", NULL);
    folder_json(
        dir, "out.jsonl",
        "{'kind':'progress'}\n{'kind':'result','id':'2','answer':'no'}\n"
        "{'kind':'result','id':'9','answer':'x'}\n{'kind':'error','id':'1','error':'broken'}\n"
        "{'kind':'summary','requests':3}\n");
    assert_int_equal(um_answers_read(&a, &t, path_of("out.jsonl"), &arena, &err), UM_OK);
    assert_null(a.text[0]);
    assert_string_equal(a.text[1], "no");
    assert_true(a.given == 1 && a.failed == 1 && a.others == 1);
    folder_json(dir, "other.json",
                "[{'question_id':1,'text':'yes'},{'question_id':1,'text':'no'}]");
    assert_int_equal(um_answers_read(&a, &t, path_of("other.json"), &arena, &err), UM_OK);
    assert_string_equal(a.text[0], "no");
    folder_json(dir, "wrong.jsonl", "{'id':1}\n");
    assert_int_equal(um_answers_read(&a, &t, path_of("wrong.jsonl"), &arena, &err), UM_E_DATA);
    has(&err, "wrong.jsonl: line 1: want {\"id\": ID, \"answer\": TEXT}");
    t.items[1].id = t.items[0].id;
    assert_int_equal(um_answers_read(&a, &t, path_of("out.jsonl"), &arena, &err), UM_E_DATA);
    has(&err, "two questions have the id 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vqa),         cmocka_unit_test(test_aokvqa_textvqa),
        cmocka_unit_test(test_pope),        cmocka_unit_test(test_mmbench),
        cmocka_unit_test(test_seed),        cmocka_unit_test(test_race),
        cmocka_unit_test(test_clothoaqa),   cmocka_unit_test(test_videos),
        cmocka_unit_test(test_own),         cmocka_unit_test(test_samples),
        cmocka_unit_test(test_bad_choices), cmocka_unit_test(test_odd_texts),
        cmocka_unit_test(test_requests),    cmocka_unit_test(test_score_requests),
        cmocka_unit_test(test_tally),       cmocka_unit_test(test_tally_words),
        cmocka_unit_test(test_answers),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
